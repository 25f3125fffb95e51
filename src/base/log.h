/* log.h — sentences for a person, on standard error. Levels: debug, info, warn, error;
 * TRILITH_LOG=debug|info|warn|error chooses the least that is shown (default info). Never used for data: that goes to
 * standard output or a file. */
#ifndef TL_BASE_LOG_H
#define TL_BASE_LOG_H

typedef enum tl_log_level { TL_LOG_DEBUG, TL_LOG_INFO, TL_LOG_WARN, TL_LOG_ERROR } tl_log_level;

void tl__log_line(tl_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define tl__info(...) tl__log_line(TL_LOG_INFO, __VA_ARGS__)
#define tl__warn(...) tl__log_line(TL_LOG_WARN, __VA_ARGS__)

/* If set (by the live progress line), called before and after a log line so that the line is cleared and redrawn. */
void tl__log_hooks(void (*before)(void *), void (*after)(void *), void *user);

#endif
