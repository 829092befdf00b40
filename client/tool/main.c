/* The `ferry` command: finds the subcommand in a table and runs it. */
#include <stdio.h>
#include <string.h>

#include "ferry.h"
#include "log.h"
#include "tool.h"

static const struct ferryi_tool_command *const commands[] = {
	&ferryi_tool_doctor,
	&ferryi_tool_pools,
	&ferryi_tool_top,
	&ferryi_tool_drain,
	&ferryi_tool_bench,
};

#define NCOMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct ferryi_tool_command *command_find(const char *name)
{
	for (size_t i = 0; i < NCOMMANDS; i++) {
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	}
	return NULL;
}

static void usage(FILE *out)
{
	fputs("usage: ferry COMMAND [OPTIONS]\n\ncommands:\n", out);
	for (size_t i = 0; i < NCOMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->text);
	fputs("\n\"ferry COMMAND --help\" lists a command's options; see also ferry(1), ferryd(8), "
	      "ferry(3).\n",
	      out);
}

int main(int argc, char **argv)
{
	const struct ferryi_tool_command *command;
	const char *name = argc > 1 ? argv[1] : NULL;

	ferryi_log_set_ident("ferry");
	ferryi_log_set_level(FERRYI_LOG_WARN);
	if (name == NULL) {
		fputs("ferry: no command given: doctor, pools, top, drain or bench (\"ferry --help\" says what "
		      "they do)\n",
		      stderr);
		return FERRYI_TOOL_USAGE;
	}
	if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
	    (strcmp(name, "help") == 0 && argc == 2)) {
		usage(stdout);
		return FERRYI_TOOL_OK;
	}
	if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
		printf("ferry %s\n", ferry_version());
		return FERRYI_TOOL_OK;
	}
	if (strcmp(name, "help") == 0) {
		char *help[] = {argv[2], "--help", NULL};

		command = command_find(argv[2]);
		if (command != NULL)
			return command->run(command, 2, help);
		name = argv[2];
	}
	command = command_find(name);
	if (command == NULL) {
		fprintf(stderr,
			"ferry: no command \"%s\"; there are doctor, pools, top, drain and bench (\"ferry --help\")\n",
			name);
		return FERRYI_TOOL_USAGE;
	}
	return command->run(command, argc - 1, argv + 1);
}
