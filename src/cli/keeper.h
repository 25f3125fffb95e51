/* keeper.h — a process that a launcher sees in place of the rank that computes. */
#ifndef TL_CLI_KEEPER_H
#define TL_CLI_KEEPER_H

/* Under a launcher: returns in a child, which goes on as the rank, while the caller's own process waits for it and ends as it
 * does; but with TL_EXIT_LOST, and a sentence, where a signal ended it. Without a launcher nothing. Before any thread. */
void tl__keeper_open(const char *name);

#endif
