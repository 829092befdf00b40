/*
 * A memory server that is to be hurt: a ferryd on an address of its own, which
 * it keeps when it is started again. With the right to make network namespaces
 * each is in one, at the other end of a cable (veth) that can be cut; else all
 * are on the loopback. Main thread; what cannot fail but by the machine's fault
 * ends the program with a line.
 */
#ifndef FERRYT_CHAOS_MEMBER_H
#define FERRYT_CHAOS_MEMBER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define FERRYT_MEMBERS 3u

/* Which way nothing passes any more. */
enum ferryt_cut { FERRYT_CUT_NONE, FERRYT_CUT_BOTH, FERRYT_CUT_ANSWERS, FERRYT_CUT_REQUESTS };

struct ferryt_member {
	unsigned number;
	char url[64]; /* with the fabric */
	pid_t pid;    /* of ferryd; 0: it does not run */
	pid_t keeper; /* of who keeps its network namespace; 0: it has none */
	enum ferryt_cut cut;
};

/* Of all members. */
struct ferryt_net {
	const char *fabric, *token_file;
	uint64_t pool_bytes;
	unsigned detect_ms; /* after so much silence client and server take each other for dead */
	bool has_cables;
};

/* This process, and what it starts from now on, is in a network of its own, if it may make one. Before any
 * thread. */
void ferryt_net_open(struct ferryt_net *net);

void ferryt_member_open(struct ferryt_member *member, const struct ferryt_net *net, unsigned number);
/* Starts its ferryd; returns once it serves. */
void ferryt_member_start(struct ferryt_member *member, const struct ferryt_net *net);
void ferryt_member_signal(const struct ferryt_member *member, int sig);
/* Waits for ferryd's end; false: it has not ended in time. */
bool ferryt_member_wait(struct ferryt_member *member, unsigned timeout_ms);
/* ASSUMPTION: has_cables. */
void ferryt_member_cut(struct ferryt_member *member, enum ferryt_cut cut);
/* Cuts, or mends, all that goes to its data ports, or to the control port alone. ASSUMPTION: has_cables. */
void ferryt_member_cut_service(const struct ferryt_member *member, bool data, bool is_cut);
void ferryt_member_close(struct ferryt_member *member);

#endif
