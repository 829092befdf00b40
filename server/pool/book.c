/*
 * Catalogue of leases with a name. See book.h. The file is text:
 *
 *   farferry leases 1
 *   lease NAME NUMBER-OF-SPANS
 *   OFF LEN                      so many times
 *   checksum XXH3-OF-ALL-ABOVE   16 hexadecimal digits
 */
#include "book.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "arith.h"
#include "bitmap.h"
#include "lock.h"
#include "log.h"

#define HEADER	     "farferry leases 1\n"
#define CHECKSUM_LEN (sizeof("checksum 0123456789abcdef\n") - 1)
#define FILE_MAX     ((size_t)64 << 20)
#define NAME_CHARS   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:;-/"

struct entry {
	struct entry *next;
	char name[FERRYI_BOOK_NAME_LEN];
	bool held;
	bool written; /* in the file: false for a new name that is held */
	struct ferryi_span *spans;
	size_t nspans;
};

struct ferryi_book {
	/* immutable */
	char path[PATH_MAX];
	uint64_t pool_size;
	struct ferryi_mutex lock; /* FERRYI_RANK_SERVER_BOOK */
	/* protected by lock */
	struct entry *entries; /* in the order of the file */
	unsigned nentries;
};

static void entry_free(struct entry *entry)
{
	free(entry->spans);
	free(entry);
}

static struct entry **find_locked(struct ferryi_book *book, const char *name)
{
	struct entry **at = &book->entries;

	ferryi_assert_held(&book->lock);
	while (*at && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

/* ---- reading ---- */

struct reader {
	struct ferryi_book *book;
	uint64_t *used; /* a bit a sub-section: no two spans hold one */
	char *at;	/* the line to come */
	unsigned line;
	const char *why; /* set with the first error */
};

static int damaged(struct reader *reader, const char *why)
{
	reader->why = why;
	return -EBADMSG;
}

/* The next line without its newline; NULL at the end. */
static char *next_line(struct reader *reader)
{
	char *line = reader->at, *end = strchr(line, '\n');

	if (!*line || !end)
		return NULL;
	*end = '\0';
	reader->at = end + 1;
	reader->line++;
	return line;
}

/* A decimal number and what follows it; false: none. */
static bool take_number(char **text, uint64_t *out)
{
	char *end;

	if (**text < '0' || **text > '9')
		return false;
	errno = 0;
	*out = strtoull(*text, &end, 10);
	if (errno)
		return false;
	*text = end;
	return true;
}

static int read_span(struct reader *reader, struct ferryi_span *span)
{
	char *line = next_line(reader);
	size_t first, n;

	if (!line || !take_number(&line, &span->off) || *line++ != ' ' ||
	    !take_number(&line, &span->len_bytes) || *line)
		return damaged(reader, "offset and length are wanted");
	if (!span->len_bytes || !ferryi_is_aligned(span->off | span->len_bytes, FERRYI_SUBSECTION_SIZE) ||
	    !ferryi_range_ok(span->off, span->len_bytes, reader->book->pool_size))
		return damaged(reader, "not a part of a pool of that size");
	if (span->off >> FERRYI_SECTION_SHIFT != (span->off + span->len_bytes - 1) >> FERRYI_SECTION_SHIFT)
		return damaged(reader, "over the end of a section");
	first = (size_t)(span->off >> FERRYI_SUBSECTION_SHIFT);
	n = (size_t)(span->len_bytes >> FERRYI_SUBSECTION_SHIFT);
	for (size_t i = first; i < first + n; i++) {
		if (ferryi_bitmap_test(reader->used, i))
			return damaged(reader, "part of two leases");
	}
	ferryi_bitmap_set_range(reader->used, first, n);
	return 0;
}

static int read_lease(struct reader *reader, char *line, struct entry *entry)
{
	size_t len = strspn(line, NAME_CHARS);
	uint64_t n;
	int rc = 0;

	if (!len || len >= sizeof(entry->name) || line[len] != ' ')
		return damaged(reader, "a lease has no good name");
	memcpy(entry->name, line, len);
	line += len + 1;
	/* No more than there are sub-sections. */
	if (!take_number(&line, &n) || *line || n > reader->book->pool_size >> FERRYI_SUBSECTION_SHIFT)
		return damaged(reader, "a lease has no good number of parts");
	for (const struct entry *other = reader->book->entries; other; other = other->next) {
		if (other != entry && strcmp(other->name, entry->name) == 0)
			return damaged(reader, "a name is there twice");
	}
	entry->spans = calloc((size_t)n + 1, sizeof(*entry->spans));
	if (!entry->spans)
		return -ENOMEM;
	for (; entry->nspans < n && !rc; entry->nspans++)
		rc = read_span(reader, &entry->spans[entry->nspans]);
	return rc;
}

static int read_leases(struct reader *reader)
{
	struct ferryi_book *book = reader->book;
	struct entry **tail = &book->entries;
	char *line;

	while ((line = next_line(reader))) {
		struct entry *entry;
		int rc;

		if (strncmp(line, "lease ", 6) != 0 || book->nentries == FERRYI_BOOK_LEASES_MAX)
			return damaged(reader, "neither a lease nor the checksum");
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		entry->written = true;
		*tail = entry;
		tail = &entry->next;
		book->nentries++;
		rc = read_lease(reader, line + 6, entry);
		if (rc)
			return rc;
	}
	return *reader->at ? damaged(reader, "the last line has no end") : 0;
}

/* text: the whole file, with a NUL behind it; it is changed. */
static int parse(struct reader *reader, char *text, size_t len)
{
	char want[CHECKSUM_LEN + 1], *last;
	int rc;

	if (len < sizeof(HEADER) - 1 + CHECKSUM_LEN || memcmp(text, HEADER, sizeof(HEADER) - 1) != 0 ||
	    strlen(text) != len)
		return damaged(reader, "not a catalogue of leases of this version");
	last = text + len - CHECKSUM_LEN;
	snprintf(want, sizeof(want), "checksum %016" PRIx64 "\n",
		 (uint64_t)XXH3_64bits(text, (size_t)(last - text)));
	if (memcmp(last, want, CHECKSUM_LEN) != 0)
		return damaged(reader, "its checksum is wrong");
	*last = '\0';
	reader->at = text + sizeof(HEADER) - 1;
	reader->line = 1;
	reader->used = calloc(FERRYI_BITMAP_WORDS(reader->book->pool_size >> FERRYI_SUBSECTION_SHIFT) + 1,
			      sizeof(uint64_t));
	rc = reader->used ? read_leases(reader) : -ENOMEM;
	free(reader->used);
	return rc;
}

/* The file's text (malloc'ed); NULL and *len 0 when it is not there. */
static int slurp(const char *path, char **text, size_t *len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	struct stat st;
	ssize_t n = 1;

	*text = NULL;
	*len = 0;
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st))
		rc = -errno;
	else if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > FILE_MAX)
		rc = -EBADMSG;
	else if (!(*text = calloc(1, (size_t)st.st_size + 1)))
		rc = -ENOMEM;
	while (!rc && n && *len < (size_t)st.st_size) {
		n = read(fd, *text + *len, (size_t)st.st_size - *len);
		if (n >= 0)
			*len += (size_t)n;
		else if (errno != EINTR)
			rc = -errno;
	}
	close(fd);
	return rc;
}

int ferryi_book_open(const char *path, uint64_t pool_size, struct ferryi_book **out, char *err,
		     size_t err_len)
{
	struct ferryi_book *book = calloc(1, sizeof(*book));
	struct reader reader = {.book = book};
	char *text = NULL;
	size_t len = 0;
	int rc = -ENOMEM;

	*out = NULL;
	if (book &&
	    (size_t)snprintf(book->path, sizeof(book->path), "%s.leases", path) + 4 < sizeof(book->path)) {
		book->pool_size = pool_size;
		ferryi_mutex_init(&book->lock, FERRYI_RANK_SERVER_BOOK);
		rc = slurp(book->path, &text, &len);
		if (!rc && text)
			rc = parse(&reader, text, len);
		free(text);
	}
	if (!rc) {
		*out = book;
		return 0;
	}
	if (rc == -EBADMSG)
		snprintf(err, err_len,
			 "%s.leases: line %u: %s; put a good copy in its place, or remove it and so give up "
			 "all leases",
			 path, reader.line, reader.why ? reader.why : "not a file of that kind");
	else
		snprintf(err, err_len, "%s.leases: %s", path, ferryi_strerror(rc));
	ferryi_book_close(&book);
	return rc;
}

void ferryi_book_close(struct ferryi_book **bookp)
{
	struct ferryi_book *book = *bookp;

	*bookp = NULL;
	if (!book)
		return;
	while (book->entries) {
		struct entry *entry = book->entries;

		book->entries = entry->next;
		entry_free(entry);
	}
	ferryi_mutex_fini(&book->lock);
	free(book);
}

void ferryi_book_each(struct ferryi_book *book, void (*visit)(void *ctx, const struct ferryi_span *span),
		      void *ctx)
{
	for (const struct entry *entry = book->entries; entry; entry = entry->next) {
		for (size_t i = 0; i < entry->nspans; i++)
			visit(ctx, &entry->spans[i]);
	}
}

/* ---- writing ---- */

/* The catalogue as text (malloc'ed). 0 or -ENOMEM. */
static int format_locked(struct ferryi_book *book, char **text, size_t *len)
{
	FILE *f = open_memstream(text, len);
	bool bad;

	ferryi_assert_held(&book->lock);
	if (!f)
		return -ENOMEM;
	fputs(HEADER, f);
	for (const struct entry *entry = book->entries; entry; entry = entry->next) {
		if (!entry->written)
			continue;
		fprintf(f, "lease %s %zu\n", entry->name, entry->nspans);
		for (size_t i = 0; i < entry->nspans; i++)
			fprintf(f, "%" PRIu64 " %" PRIu64 "\n", entry->spans[i].off,
				entry->spans[i].len_bytes);
	}
	bad = fflush(f) != 0;
	if (!bad)
		fprintf(f, "checksum %016" PRIx64 "\n", (uint64_t)XXH3_64bits(*text, *len));
	bad = fclose(f) != 0 || bad;
	if (bad)
		free(*text);
	return bad ? -ENOMEM : 0;
}

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			text += n;
			len -= (size_t)n;
		}
	}
	return fsync(fd) ? -errno : 0;
}

/* A rename is on disk once its folder is. */
static int sync_folder(const char *path)
{
	char folder[PATH_MAX];
	char *slash;
	int fd, rc;

	snprintf(folder, sizeof(folder), "%s", path);
	slash = strrchr(folder, '/');
	assert(slash); /* path= begins with one */
	slash[slash == folder] = '\0';
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

static int save_locked(struct ferryi_book *book)
{
	char temporary[PATH_MAX + 8];
	char *text;
	size_t len;
	int fd, rc = format_locked(book, &text, &len);

	if (rc)
		return rc;
	snprintf(temporary, sizeof(temporary), "%s.tmp", book->path);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	rc = fd < 0 ? -errno : write_all(fd, text, len);
	if (fd >= 0 && close(fd) && !rc)
		rc = -errno;
	free(text);
	if (!rc && rename(temporary, book->path))
		rc = -errno;
	if (!rc)
		rc = sync_folder(book->path);
	if (rc)
		ferryi_error("%s: writing the catalogue of leases failed: %s", book->path,
			     ferryi_strerror(rc));
	return rc;
}

/* ---- names ---- */

int ferryi_book_hold(struct ferryi_book *book, const char *name, struct ferryi_span **spans, size_t *nspans)
{
	struct entry **at, *entry;
	int rc = 0;

	assert(name[0] && strlen(name) < FERRYI_BOOK_NAME_LEN && !name[strspn(name, NAME_CHARS)]);
	*spans = NULL;
	*nspans = 0;
	ferryi_mutex_lock(&book->lock);
	at = find_locked(book, name);
	entry = *at;
	if (!entry && book->nentries >= FERRYI_BOOK_LEASES_MAX)
		rc = -EDQUOT;
	else if (!entry && !(entry = calloc(1, sizeof(*entry))))
		rc = -ENOMEM;
	else if (entry->held)
		rc = -EBUSY;
	else if (!(*spans = calloc(entry->nspans + 1, sizeof(**spans))))
		rc = -ENOMEM;
	if (!rc) {
		if (!*at)
			book->nentries++;
		*at = entry;
		entry->held = true;
		snprintf(entry->name, sizeof(entry->name), "%s", name);
		*nspans = entry->nspans;
		if (entry->nspans)
			memcpy(*spans, entry->spans, entry->nspans * sizeof(**spans));
	} else if (!*at) {
		free(entry);
	}
	ferryi_mutex_unlock(&book->lock);
	return rc;
}

uint64_t ferryi_book_unheld(struct ferryi_book *book, const char *scope)
{
	const size_t len = strlen(scope);
	uint64_t bytes = 0;

	ferryi_mutex_lock(&book->lock);
	for (const struct entry *entry = book->entries; entry; entry = entry->next) {
		bool is_its = len ? strncmp(entry->name, scope, len) == 0 : !strchr(entry->name, '/');

		for (size_t i = 0; is_its && !entry->held && i < entry->nspans; i++)
			bytes += entry->spans[i].len_bytes;
	}
	ferryi_mutex_unlock(&book->lock);
	return bytes;
}

static void remove_locked(struct ferryi_book *book, struct entry **at)
{
	struct entry *entry = *at;

	ferryi_assert_held(&book->lock);
	*at = entry->next;
	book->nentries--;
	entry_free(entry);
}

void ferryi_book_put(struct ferryi_book *book, const char *name)
{
	struct entry **at;

	ferryi_mutex_lock(&book->lock);
	at = find_locked(book, name);
	assert(*at && (*at)->held);
	(*at)->held = false;
	if (!(*at)->written)
		remove_locked(book, at);
	ferryi_mutex_unlock(&book->lock);
}

int ferryi_book_write(struct ferryi_book *book, const char *name, const struct ferryi_span *spans,
		      size_t nspans)
{
	struct ferryi_span *copy = calloc(nspans + 1, sizeof(*copy));
	struct entry *entry, before;
	int rc;

	if (!copy)
		return -ENOMEM;
	if (nspans)
		memcpy(copy, spans, nspans * sizeof(*copy));
	ferryi_mutex_lock(&book->lock);
	entry = *find_locked(book, name);
	assert(entry && entry->held);
	before = *entry;
	entry->spans = copy;
	entry->nspans = nspans;
	entry->written = true;
	rc = save_locked(book);
	if (rc) {
		*entry = before;
		free(copy);
	} else {
		free(before.spans);
	}
	ferryi_mutex_unlock(&book->lock);
	return rc;
}

int ferryi_book_erase(struct ferryi_book *book, const char *name)
{
	struct entry **at;
	bool written;
	int rc = 0;

	ferryi_mutex_lock(&book->lock);
	at = find_locked(book, name);
	assert(*at && (*at)->held);
	written = (*at)->written;
	(*at)->written = false;
	if (written)
		rc = save_locked(book);
	if (rc)
		(*at)->written = true;
	else
		remove_locked(book, at);
	ferryi_mutex_unlock(&book->lock);
	return rc;
}
