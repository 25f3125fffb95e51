/* main.c — the commands there are. */
#include "cli/cli.h"

/* Weak until each has landed: an absent command is simply not listed. */
#define COMMAND(name) extern const tl_command name __attribute__((weak))
COMMAND(tl__cmd_train);
COMMAND(tl__cmd_generate);
COMMAND(tl__cmd_score);
COMMAND(tl__cmd_tokenizer);
COMMAND(tl__cmd_inspect);
COMMAND(tl__cmd_report);
COMMAND(tl__cmd_doctor);
COMMAND(tl__cmd_bench);

int main(int argc, char **argv) {
    const tl_command *const all[] = {&tl__cmd_train,   &tl__cmd_generate, &tl__cmd_score,  &tl__cmd_tokenizer,
                                     &tl__cmd_inspect, &tl__cmd_report,   &tl__cmd_doctor, &tl__cmd_bench};
    const tl_command *commands[sizeof all / sizeof *all];
    int n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]) commands[n++] = all[i];
    return tl__cli_main(argc, argv, commands, n);
}
