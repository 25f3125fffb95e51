/* main.c — the commands there are, in the order in which help lists them. */
#include "cli/cli.h"

extern const tl_command tl__cmd_train, tl__cmd_generate, tl__cmd_chat, tl__cmd_score, tl__cmd_serve, tl__cmd_tokenizer,
    tl__cmd_template, tl__cmd_inspect, tl__cmd_verify, tl__cmd_convert, tl__cmd_report, tl__cmd_doctor, tl__cmd_bench;

int main(int argc, char **argv) {
    static const tl_command *const commands[] = {
        &tl__cmd_train,     &tl__cmd_generate, &tl__cmd_chat,    &tl__cmd_serve,  &tl__cmd_score,
        &tl__cmd_tokenizer, &tl__cmd_template, &tl__cmd_inspect, &tl__cmd_verify, &tl__cmd_convert,
        &tl__cmd_report,    &tl__cmd_doctor,   &tl__cmd_bench};
    return tl__cli_main(argc, argv, commands, (int)(sizeof commands / sizeof *commands));
}
