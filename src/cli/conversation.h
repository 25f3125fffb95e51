/* conversation.h — messages, tools and settings as the commands template and chat read them from files. */
#ifndef TL_CLI_CONVERSATION_H
#define TL_CLI_CONVERSATION_H

#include "cli/cli.h"
#include "text/conversation.h"

/* {"messages", "tools", "documents"} as transformers passes them: messages from a file that holds a list or an object
 * with "messages" (its "tools" and "documents" are taken too); tools from a file with a list, or NULL. */
int tl__conversation_read(json_t **conversation, const char *messages, const char *tools, tl_error *err);
/* Put the tools of a file into a conversation. */
int tl__conversation_tools(json_t *conversation, const char *tools, tl_error *err);
/* KEY=JSON of each entry, put into an object. */
int tl__settings_add(json_t *settings, const tl_list *entries, tl_error *err);

#endif
