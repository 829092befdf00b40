/*
 * Servers are killed, stopped, cut off and drained at random while clients
 * check every byte; each event begins once every page has all its copies
 * again, so nothing may be lost. Seeded: the events follow from the seed.
 *
 * usage: chaos [--seed N] [--events N] [--seconds N] [--fabric tcp|local] [--detect MS] [--clients N] [--size
 * MIB]
 *
 * Ends with a report; status 0: nothing was lost, nothing hung. 77: this machine cannot run it.
 */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chaos.h"
#include "client.h"
#include "arith.h"
#include "clock.h"
#include "ferry.h"
#include "member.h"

#define MAX_CLIENTS 16u
#define REPLICAS    2u
#define WHOLE_MS    120000u /* until every copy is there again */
#define END_MS	    120000u

enum kind { KILL, STOP, CUT_BOTH, CUT_ANSWERS, CUT_REQUESTS, DRAIN, CLIENT, NR_KINDS };

static const char *const kind_names[NR_KINDS] = {
	[KILL] = "server killed",      [STOP] = "server stopped",	[CUT_BOTH] = "cable cut",
	[CUT_ANSWERS] = "answers cut", [CUT_REQUESTS] = "requests cut", [DRAIN] = "server drained",
	[CLIENT] = "client killed",
};

static struct options {
	unsigned long long seed, events, seconds, clients, size_mib, detect_ms;
	const char *fabric;
} options = {.seed = 1, .events = 8, .clients = 4, .size_mib = 16, .detect_ms = 2000, .fabric = "tcp"};

struct runner {
	pid_t pid;
	struct ferryt_client_attr attr;
};

static struct ferryt_net net;
static struct ferryt_member members[FERRYT_MEMBERS];
static struct runner clients[MAX_CLIENTS];
static char servers[256], token_file[] = "/tmp/chaos-token-XXXXXX";
static unsigned long long random_state;
/* Of the report; pauses of an access while an event lasted. */
static struct tally {
	unsigned nr;
	uint64_t worst_ns, whole_ns; /* longest pause; longest time until every copy was there again */
} tally[NR_KINDS];

static unsigned long long pick(unsigned long long n)
{
	return ferryt_random(&random_state) % n;
}

/* ---- clients ---- */

static void start_client(struct runner *c, unsigned number)
{
	struct ferryt_board *board = c->attr.board;

	if (!board) {
		board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		MUST(board != MAP_FAILED);
	}
	memset(board, 0, sizeof(*board));
	c->attr = (struct ferryt_client_attr){
		.servers = servers,
		.token_file = token_file,
		.size_bytes = options.size_mib << 20,
		.budget_bytes = ferryi_max_u64(options.size_mib << 18, FERRY_BUDGET_MIN),
		.replicas = REPLICAS,
		.seed = number + 1,
		.board = board};
	c->pid = fork();
	MUST(c->pid >= 0);
	if (!c->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(ferryt_client_main(&c->attr));
	}
}

/* A client that has ended before it was told to has failed. */
static bool all_run(void)
{
	for (unsigned i = 0; i < options.clients; i++) {
		int status;

		if (waitpid(clients[i].pid, &status, WNOHANG) != clients[i].pid)
			continue;
		clients[i].pid = 0;
		if (WIFSIGNALED(status))
			printf("client %u ended by signal %d\n", i, WTERMSIG(status));
		else
			printf("client %u ended with status %d\n", i, WEXITSTATUS(status));
		return false;
	}
	return true;
}

static bool is_whole(void)
{
	for (unsigned i = 0; i < options.clients; i++) {
		const struct ferryt_board *board = clients[i].attr.board;

		if (!atomic_load(&board->is_ready) || atomic_load(&board->copies_missing))
			return false;
	}
	return true;
}

/* Every client is there, and every page has its copies. */
static bool wait_until_whole(void)
{
	uint64_t deadline_ns = ferryi_deadline_ms(WHOLE_MS);

	while (!is_whole()) {
		if (!all_run())
			return false;
		if (ferryi_now_ns() >= deadline_ns) {
			for (unsigned i = 0; i < options.clients; i++)
				printf("client %u: %llu copies missing\n", i,
				       (unsigned long long)atomic_load(
					       &clients[i].attr.board->copies_missing));
			return false;
		}
		poll(NULL, 0, 5);
	}
	return true;
}

/* As long as anybody may take to find out that a server is gone: both sides wait for detect_ms, and then
 * look. */
static bool wait_for_detection(void)
{
	uint64_t deadline_ns = ferryi_deadline_ms(2 * options.detect_ms);

	while (ferryi_now_ns() < deadline_ns) {
		if (!all_run())
			return false;
		poll(NULL, 0, 10);
	}
	return true;
}

/* The longest pause since the last time, with the accesses that still wait. */
static uint64_t take_worst(void)
{
	uint64_t worst = 0, now = ferryi_now_ns();

	for (unsigned i = 0; i < options.clients; i++) {
		struct ferryt_board *board = clients[i].attr.board;
		uint64_t ended = atomic_exchange(&board->worst_ns, 0), began = atomic_load(&board->began_ns);

		if (ended > worst)
			worst = ended;
		if (began && now > began && now - began > worst)
			worst = now - began;
	}
	return worst;
}

/* ---- events ---- */

static void pause_ms(unsigned long long ms)
{
	poll(NULL, 0, (int)ms);
}

/* Shorter than the detection, or longer: both are to be survived. */
static unsigned long long some_time(void)
{
	return options.detect_ms / 4 + pick(3 * options.detect_ms);
}

static bool kill_server(struct ferryt_member *m)
{
	ferryt_member_signal(m, SIGKILL);
	MUST(ferryt_member_wait(m, END_MS));
	bool waits = pick(2);

	if (waits && (!wait_for_detection() || !wait_until_whole()))
		return false;
	ferryt_member_start(m, &net);
	return wait_for_detection();
}

static bool stop_server(struct ferryt_member *m)
{
	ferryt_member_signal(m, SIGSTOP);
	pause_ms(some_time());
	ferryt_member_signal(m, SIGCONT);
	return wait_for_detection();
}

static bool cut(struct ferryt_member *m, enum ferryt_cut how)
{
	ferryt_member_cut(m, how);
	pause_ms(some_time());
	ferryt_member_cut(m, FERRYT_CUT_NONE);
	return wait_for_detection();
}

static bool drain(struct ferryt_member *m)
{
	ferryt_member_signal(m, SIGTERM);
	if (!ferryt_member_wait(m, END_MS)) {
		printf("server %u is not drained\n", m->number);
		return false;
	}
	ferryt_member_start(m, &net);
	return wait_for_detection();
}

static bool kill_client(struct runner *c)
{
	MUST(!kill(c->pid, SIGKILL) && waitpid(c->pid, NULL, 0) == c->pid);
	start_client(c, (unsigned)(c - clients));
	return true;
}

static bool happens(enum kind kind)
{
	struct ferryt_member *m = &members[pick(FERRYT_MEMBERS)];

	switch (kind) {
	case KILL:
		return kill_server(m);
	case STOP:
		return stop_server(m);
	case CUT_BOTH:
		return cut(m, FERRYT_CUT_BOTH);
	case CUT_ANSWERS:
		return cut(m, FERRYT_CUT_ANSWERS);
	case CUT_REQUESTS:
		return cut(m, FERRYT_CUT_REQUESTS);
	case DRAIN:
		return drain(m);
	default:
		return kill_client(&clients[pick(options.clients)]);
	}
}

static bool is_possible(enum kind kind)
{
	return net.has_cables || (kind != CUT_BOTH && kind != CUT_ANSWERS && kind != CUT_REQUESTS);
}

static bool one_event(unsigned long long number, uint64_t begin_ns)
{
	enum kind kind;

	do
		kind = (enum kind)pick(NR_KINDS);
	while (!is_possible(kind));
	take_worst();
	uint64_t start = ferryi_now_ns();
	bool ok = happens(kind) && wait_until_whole();
	uint64_t whole = ferryi_now_ns() - start, worst = take_worst();

	printf("%7.1f s  event %3llu  %-15s  longest pause %6.0f ms, all copies there after %6.0f ms%s\n",
	       (double)(start - begin_ns) / 1e9, number, kind_names[kind], (double)worst / 1e6,
	       (double)whole / 1e6, ok ? "" : "  FAILED");
	fflush(stdout);
	tally[kind].nr++;
	if (worst > tally[kind].worst_ns)
		tally[kind].worst_ns = worst;
	if (whole > tally[kind].whole_ns)
		tally[kind].whole_ns = whole;
	return ok;
}

/* ---- begin, end ---- */

static unsigned long long number(const char *text)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "chaos: \"%s\" is not a number\n", text);
		exit(2);
	}
	return value;
}

static void parse(int argc, char **argv)
{
	static const struct option names[] = {
		{"seed", 1, NULL, 's'},	  {"events", 1, NULL, 'e'}, {"seconds", 1, NULL, 't'},
		{"fabric", 1, NULL, 'f'}, {"detect", 1, NULL, 'd'}, {"clients", 1, NULL, 'c'},
		{"size", 1, NULL, 'z'},	  {NULL, 0, NULL, 0},
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", names, NULL)) != -1) {
		unsigned long long *value = opt == 's'	 ? &options.seed
					    : opt == 'e' ? &options.events
					    : opt == 't' ? &options.seconds
					    : opt == 'd' ? &options.detect_ms
					    : opt == 'c' ? &options.clients
					    : opt == 'z' ? &options.size_mib
							 : NULL;
		if (opt == 'f')
			options.fabric = optarg;
		else if (value)
			*value = number(optarg);
		else
			exit(2);
	}
	if (optind != argc || !options.seed || !options.clients || options.clients > MAX_CLIENTS ||
	    options.detect_ms < 100 || options.size_mib < 8) {
		fprintf(stderr,
			"usage: chaos [--seed N] [--events N] [--seconds N] [--fabric tcp|local] [--detect "
			"MS, 100 or more] "
			"[--clients 1..%u] [--size MIB, 8 or more]\n",
			MAX_CLIENTS);
		exit(2);
	}
}

static void open_all(void)
{
	net = (struct ferryt_net){.fabric = options.fabric,
				  .token_file = token_file,
				  /* Each client leases 64 MiB at a time, for a pool and for copies of others. */
				  .pool_bytes = options.clients * (options.size_mib * REPLICAS + 320) << 20,
				  .detect_ms = (unsigned)options.detect_ms};
	int fd = mkstemp(token_file);

	MUST(fd >= 0);
	close(fd);
	unlink(token_file); /* the first ferryd makes it */
	ferryt_net_open(&net);
	for (unsigned i = 0; i < FERRYT_MEMBERS; i++) {
		ferryt_member_open(&members[i], &net, i);
		ferryt_member_start(&members[i], &net);
		strcat(servers, i ? "," : "");
		strcat(servers, members[i].url);
	}
	for (unsigned i = 0; i < options.clients; i++)
		start_client(&clients[i], i);
}

/* Each client looks at all it has, and gives it back. */
static bool end_clients(void)
{
	uint64_t deadline_ns = ferryi_deadline_ms(END_MS);
	bool ok = true;

	for (unsigned i = 0; i < options.clients; i++)
		atomic_store(&clients[i].attr.board->stop, true);
	for (unsigned i = 0; i < options.clients; i++) {
		int status = -1;

		while (clients[i].pid > 0 && waitpid(clients[i].pid, &status, WNOHANG) == 0 &&
		       ferryi_now_ns() < deadline_ns)
			poll(NULL, 0, 5);
		if (clients[i].pid > 0 && status != 0) {
			printf("client %u did not end well: wait status %d\n", i, status);
			kill(clients[i].pid, SIGKILL);
			ok = false;
		}
	}
	return ok;
}

static void report(bool ok, uint64_t took_ns, unsigned long long nr_events)
{
	unsigned long long checked = 0;
	uint64_t worst = 0;

	printf("\n%-16s %6s %18s %24s\n", "event", "times", "longest pause ms", "all copies there, ms");
	for (unsigned k = 0; k < NR_KINDS; k++) {
		if (tally[k].worst_ns > worst)
			worst = tally[k].worst_ns;
		if (tally[k].nr)
			printf("%-16s %6u %18.0f %24.0f\n", kind_names[k], tally[k].nr,
			       (double)tally[k].worst_ns / 1e6, (double)tally[k].whole_ns / 1e6);
	}
	for (unsigned i = 0; i < options.clients; i++)
		checked += atomic_load(&clients[i].attr.board->nr_checked);
	printf("\nseed %llu, fabric %s: %llu events in %.0f s, %llu pages checked, detection %llu ms, "
	       "longest pause %.0f ms (%.2f of "
	       "it)\n",
	       options.seed, options.fabric, nr_events, (double)took_ns / 1e9, checked, options.detect_ms,
	       (double)worst / 1e6, (double)worst / 1e6 / (double)options.detect_ms);
	puts(ok ? "nothing lost, nothing hung" : "FAILED");
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	random_state = options.seed;
	open_all();
	if (!net.has_cables)
		puts("skipped: cut cables (they take root, network namespaces, and fabric tcp)");

	uint64_t begin_ns = ferryi_now_ns();
	unsigned long long n = 0;
	bool ok = wait_until_whole();

	while (ok && n < options.events &&
	       (!options.seconds || ferryi_now_ns() - begin_ns < options.seconds * 1000 * FERRYI_NS_PER_MS))
		ok = one_event(n++, begin_ns);
	ok = end_clients() && ok;
	report(ok, ferryi_now_ns() - begin_ns, n);
	for (unsigned i = 0; i < FERRYT_MEMBERS; i++)
		ferryt_member_close(&members[i]);
	unlink(token_file);
	return ok ? 0 : 1;
}
