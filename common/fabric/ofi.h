/*
 * What the libfabric rows (verbs, tcp, rdm) share. Private to ofi_*.c; the only
 * files that include libfabric headers.
 *
 * Threads. Client: a channel belongs to its owner thread (own domain, CQ, EP);
 * the watch connection of a peer belongs to whoever calls ferryi_peer_events().
 * Server: one event thread a listener (connections come and go), and on rows
 * whose target needs CPU `threads` workers that make progress for the tenants.
 * Locks: listener->lock, then worker->lock (held while a tenant's endpoints
 * progress, are opened or closed).
 */
#ifndef FERRYI_OFI_H
#define FERRYI_OFI_H

#include <poll.h>
#include <pthread.h>
#include <rdma/fabric.h>
#include <rdma/fi_cm.h>
#include <rdma/fi_domain.h>
#include <rdma/fi_endpoint.h>
#include <rdma/fi_eq.h>
#include <rdma/fi_errno.h>
#include <rdma/fi_rma.h>

#include "fabric_ops.h"

#define FERRYI_OFI_VERSION FI_VERSION(1, 17)

/* ---- ofi_setup.c: providers ---- */

/* What sets the rows apart. */
struct ferryi_ofi_kind {
	const char *row;
	const char *provider; /* NULL: the first of those that ofi_info.c lists for FI_EP_RDM */
	enum fi_ep_type ep_type;
	bool target_cpu; /* somebody at the target must make progress */
};

const struct ferryi_ofi_kind *ferryi_ofi_kind_of(const struct ferryi_fabric_row *row);

/*
 * fi_getinfo with this row's hints, for a source address (server; host "" is
 * everywhere) or a destination (client). 0, -ENODEV, -EHOSTUNREACH,
 * -EADDRNOTAVAIL, -ENOMEM; logged.
 */
int ferryi_ofi_info(const struct ferryi_ofi_kind *kind, const char *provider, const char *host,
		    const char *port, bool source, bool single_owner, struct fi_info **out);
int ferryi_ofi_usable(const struct ferryi_ofi_kind *kind, char *why, size_t why_len);

/* One line, once, where the provider's error is turned into ours; returns rc as a negative errno. */
int ferryi_ofi_log(const char *label, const char *what, ssize_t rc);

/* FI_GETWAIT, close-on-exec; -1 where the provider has no descriptor. */
int ferryi_ofi_wait_fd(struct fid *fid);
/* Closes what is there and nulls it; the order of fids is the caller's. */
#define FERRYI_OFI_CLOSE(p)                  \
	do {                                 \
		if (p)                       \
			fi_close(&(p)->fid); \
		(p) = NULL;                  \
	} while (0)

/* Registers memory: key random where the provider leaves it to us. */
int ferryi_ofi_mr(const char *label, const struct fi_info *info, struct fid_domain *domain, struct fid_ep *ep,
		  const void *base, size_t len, uint64_t access, bool remote, struct fid_mr **out);

/* ---- the hello that a connection presents ---- */

enum ferryi_ofi_purpose {
	FERRYI_OFI_DATA = 1,
	FERRYI_OFI_WATCH =
		2, /* carries no data; its end tells the client that the server (or tenant) is gone */
	FERRYI_OFI_BYE = 3, /* rdm only */
};

struct ferryi_ofi_hello {
	uint8_t magic[4];
	uint8_t purpose;
	uint8_t zero[3];
	uint8_t token[FERRYI_TOKEN_LEN];
};

#define FERRYI_OFI_MAGIC  "FRY1"
#define FERRYI_OFI_REFUSE "FRYN" /* in a rejection: the token was refused */

void ferryi_ofi_hello_fill(struct ferryi_ofi_hello *hello, enum ferryi_ofi_purpose purpose,
			   const uint8_t token[FERRYI_TOKEN_LEN]);

/* ---- ofi_link.c: one client connection ---- */

struct ferryi_ofi_link {
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct fid_eq *eq; /* FI_EP_MSG */
	struct fid_av *av; /* FI_EP_RDM */
	struct fid_ep *ep;
	int cq_fd, eq_fd; /* -1: none */
	fi_addr_t dest;
};

struct ferryi_ofi_peer {
	struct ferryi_peer base;
	/* immutable after open */
	const struct ferryi_ofi_kind *kind;
	struct fi_info *info;
	struct fid_fabric *fabric;
	unsigned reads_max; /* outstanding reads that the device takes; 0: no limit of its own */
	bool is_emulated;   /* bytes move only while somebody reads the completion queue, here and there */
	int event_fd;	    /* epoll of the watch connection; -1: none */
	/* atomic: channels set it; a fabric with abandoned endpoints is never closed */
	_Atomic bool has_abandoned;
	/* owned by the thread that calls ferryi_peer_events() */
	struct ferryi_ofi_link watch;
};

/* Opens domain, CQ and endpoint for `depth` outstanding messages. */
int ferryi_ofi_link_open(struct ferryi_ofi_peer *peer, size_t depth, struct ferryi_ofi_link *link);
void ferryi_ofi_link_close(struct ferryi_ofi_link *link);
/* FI_EP_MSG: connects and waits; 0, -ECONNREFUSED, -EACCES, -EHOSTUNREACH, -ETIMEDOUT. */
int ferryi_ofi_link_connect(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link,
			    enum ferryi_ofi_purpose purpose, uint64_t deadline_ns);
/* Reads connection events: 0, or -ENOTCONN once the connection is gone. */
int ferryi_ofi_link_events(struct ferryi_ofi_link *link);
/* True when poll(2) on its descriptors is safe now. */
bool ferryi_ofi_link_trywait(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link);

/* ---- ofi_rdm.c: the client's half of a hello by message ---- */

#define FERRYI_OFI_NAME_MAX 128

/* Datagram endpoints have no connection request to carry the hello, so it is a message, and so is the answer.
 */
struct ferryi_ofi_greeting {
	struct ferryi_ofi_hello hello;
	uint32_t name_len;
	uint8_t name[FERRYI_OFI_NAME_MAX]; /* the sender's endpoint, for the answer */
};

struct ferryi_ofi_answer {
	uint8_t magic[4]; /* FERRYI_OFI_MAGIC: welcome; FERRYI_OFI_REFUSE: wrong token */
};

int ferryi_ofi_rdm_hello(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link, uint64_t deadline_ns);
void ferryi_ofi_rdm_bye(struct ferryi_ofi_peer *peer, struct ferryi_ofi_link *link);

/* ---- ofi_worker.c: progress at the target ---- */

struct ferryi_ofi_worker;
/* fd < 0 (no wait object): the worker polls it every millisecond. drive() reads the CQ; true when more is to
 * be done at once. */
struct ferryi_ofi_source {
	struct ferryi_ofi_worker *worker; /* NULL: not watched */
	bool (*drive)(struct ferryi_ofi_source *source);
	int fd;
	uint32_t slot;
	bool is_busy;
};

int ferryi_ofi_worker_create(uint64_t spin_us, const char *label, struct ferryi_ofi_worker **out);
/* No source is left. */
void ferryi_ofi_worker_destroy(struct ferryi_ofi_worker **worker);
/* The lock that keeps progress away from endpoints that are being opened or closed. NULL is allowed. */
void ferryi_ofi_worker_lock(struct ferryi_ofi_worker *worker);
void ferryi_ofi_worker_unlock(struct ferryi_ofi_worker *worker);
/* With the lock held. */
int ferryi_ofi_worker_add_locked(struct ferryi_ofi_worker *worker, struct ferryi_ofi_source *source);
void ferryi_ofi_worker_del_locked(struct ferryi_ofi_source *source);
/* The least loaded of n. */
struct ferryi_ofi_worker *ferryi_ofi_worker_pick(struct ferryi_ofi_worker *const *workers, unsigned n);

/* ---- ofi_listener.c, ofi_tenant.c ---- */

#define FERRYI_OFI_WORKERS_MAX 64

struct ferryi_ofi_tenant;

/* A connection as the server sees it. */
struct ferryi_ofi_conn {
	struct ferryi_ofi_conn *next, **pprev; /* listener->conns; listener lock */
	struct ferryi_ofi_tenant *tenant;      /* whose token it showed */
	struct ferryi_ofi_tenant *home; /* in whose domain it lives: the tenant, or the lobby for watches */
	struct fid_ep *ep;
};

struct ferryi_ofi_tenant {
	struct ferryi_tenant base;
	/* immutable after open (rdm: the CQ and its descriptor change under the worker's lock) */
	struct fi_info *info;
	struct fid_domain *domain;
	struct fid_cq *cq;
	struct ferryi_ofi_source source;
	struct ferryi_ofi_rdm *rdm; /* FI_EP_RDM: its endpoint and hello buffers */
};

struct ferryi_ofi_region {
	struct ferryi_region base;
	struct fid_mr *mr;
};

struct ferryi_ofi_listener {
	struct ferryi_listener base;
	/* immutable after open */
	const struct ferryi_ofi_kind *kind;
	struct fi_info *info;
	struct fid_fabric *fabric;
	struct fid_pep *pep;
	struct fid_eq *eq;
	int eq_fd;
	int event_epfd, stop_fd;
	pthread_t event_thread;
	char port[16];
	unsigned nworkers;
	struct ferryi_ofi_worker *workers[FERRYI_OFI_WORKERS_MAX];
	struct ferryi_ofi_tenant lobby; /* home of the watch connections: a domain without memory */
	/* protected by base.lock */
	struct ferryi_ofi_conn *conns;
};

int ferryi_ofi_listener_open(struct ferryi_listener *listener);
void ferryi_ofi_listener_close(struct ferryi_listener *listener);
/* Closes the tenant's connections (watches too if asked); nothing of theirs touches memory afterwards. */
void ferryi_ofi_listener_drop(struct ferryi_ofi_listener *listener, struct ferryi_ofi_tenant *tenant,
			      bool watches);

int ferryi_ofi_home_open(struct ferryi_ofi_listener *listener, struct ferryi_ofi_tenant *home);
int ferryi_ofi_home_open_cq(struct ferryi_ofi_tenant *home);
void ferryi_ofi_home_close(struct ferryi_ofi_tenant *home);

int ferryi_ofi_tenant_open(struct ferryi_tenant *tenant);
void ferryi_ofi_tenant_shutdown(struct ferryi_tenant *tenant);
void ferryi_ofi_tenant_close(struct ferryi_tenant *tenant);
int ferryi_ofi_tenant_addr(struct ferryi_tenant *tenant, char *buf, size_t buf_len);
int ferryi_ofi_region_open(struct ferryi_region *region);
void ferryi_ofi_region_revoke(struct ferryi_region *region);

/* ---- ofi_rdm_server.c ---- */

int ferryi_ofi_rdm_open(struct ferryi_ofi_tenant *tenant);
void ferryi_ofi_rdm_close(struct ferryi_ofi_tenant *tenant);
/* Ends what is under way by closing and reopening the endpoint at the same address, where that is needed. */
void ferryi_ofi_rdm_quiesce(struct ferryi_ofi_tenant *tenant);
struct fid_ep *ferryi_ofi_rdm_ep(struct ferryi_ofi_tenant *tenant);
int ferryi_ofi_rdm_addr(struct ferryi_ofi_tenant *tenant, char *buf, size_t buf_len);
bool ferryi_ofi_rdm_drive(struct ferryi_ofi_source *source);

/* ---- ofi_peer.c, ofi_channel.c ---- */

int ferryi_ofi_peer_open(struct ferryi_peer *peer, uint64_t deadline_ns);
void ferryi_ofi_peer_close(struct ferryi_peer *peer);
int ferryi_ofi_peer_event_fd(struct ferryi_peer *peer);
int ferryi_ofi_peer_events(struct ferryi_peer *peer);

#define FERRYI_OFI_SLOTS_MAX FERRYI_CHANNEL_DEPTH_MAX

/* Context of one message; the provider may use ctx while it is under way. */
struct ferryi_ofi_slot {
	struct fi_context2 ctx;
	struct ferryi_op *op;
	struct ferryi_ofi_slot *next_free;
};

struct ferryi_ofi_channel {
	struct ferryi_channel base;
	/* immutable after open */
	struct ferryi_ofi_link link;
	int wait_fd; /* epoll of CQ, EQ and the peer's fail_fd; -1: none */
	size_t msg_max;
	unsigned reads_max, nslots;
	bool is_rdm;
	/* owned by the owner thread */
	struct ferryi_ofi_slot *free_slot;
	unsigned ninflight, nreads; /* messages */
	struct ferryi_op *partial;  /* taken, not all of it posted yet; nothing overtakes it */
	void *partial_desc;
	uint64_t stalled_since_ns; /* since when `partial` made no headway; 0: it does */
	uint64_t next_events_ns;   /* when an idle poll looks at the EQ again */
	unsigned nidle;
	bool is_broken; /* the next poll says so */
	bool is_logged;
	struct ferryi_ofi_slot slots[FERRYI_OFI_SLOTS_MAX];
};

int ferryi_ofi_channel_open(struct ferryi_channel *channel, uint64_t deadline_ns);
void ferryi_ofi_channel_close(struct ferryi_channel *channel);
int ferryi_ofi_channel_register(struct ferryi_channel *channel, struct ferryi_local_range *range);
int ferryi_ofi_channel_submit(struct ferryi_channel *channel, struct ferryi_op *op,
			      const struct ferryi_local_range *range);
int ferryi_ofi_channel_poll(struct ferryi_channel *channel);
int ferryi_ofi_channel_wait_fd(struct ferryi_channel *channel);
int ferryi_ofi_channel_arm(struct ferryi_channel *channel);
void ferryi_ofi_channel_shutdown(struct ferryi_channel *channel);

#endif
