/* Loaded into a program under test: writes a journal of what the program does to the files of one folder.
 *
 * Each entry is a head and then a name and data; powercut/journal.rs reads them. Order in the journal is the
 * order of the calls, since one lock is held over each call and its entry. A sync is written down before it
 * is made: what was written before it is what it covers. Files named "lock" and "*-shm" are left out: the
 * one is empty, the other is memory that SQLite makes anew.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NONE, FILE_, FOLDER, MARKS };
#define FDS 4096

struct __attribute__((packed)) head {
    uint8_t op;
    uint64_t inode, at;
    uint32_t name_bytes, data_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root, *marks;
static size_t root_bytes;
static int journal = -1;
static uint8_t kind_of[FDS];
static uint64_t inode_of[FDS];

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void put(const void *bytes, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = REAL(write);
    while (size > 0) {
        ssize_t done = real(journal, bytes, size);
        if (done <= 0) abort();
        bytes = (const char *)bytes + done;
        size -= done;
    }
}

static void note(char op, uint64_t inode, uint64_t at, const char *name, const void *data, size_t size) {
    struct head head = {op, inode, at, name ? strlen(name) : 0, size};
    put(&head, sizeof head);
    put(name, head.name_bytes);
    put(data, size);
}

static __attribute__((constructor)) void begin(void) {
    root = getenv("POWERCUT_ROOT");
    marks = getenv("POWERCUT_MARKS");
    const char *path = getenv("POWERCUT_JOURNAL");
    if (!root || !marks || !path) { root = NULL; return; }
    root_bytes = strlen(root);
    journal = REAL(open)(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (journal < 0) abort();
}

/* The name within the folder; "" for the folder itself; NULL for what is not ours. */
static const char *name_of(const char *path) {
    if (!root || strncmp(path, root, root_bytes) != 0) return NULL;
    const char *rest = path + root_bytes;
    if (*rest == 0) return rest;
    if (*rest != '/') return NULL;
    rest++;
    size_t size = strlen(rest);
    if (strcmp(rest, "lock") == 0 || (size > 4 && strcmp(rest + size - 4, "-shm") == 0)) return NULL;
    return rest;
}

static int kind(int fd) { return fd >= 0 && fd < FDS ? kind_of[fd] : NONE; }

static int opened(int fd, const char *path, int flags, int was_there) {
    if (fd < 0 || fd >= FDS) return fd;
    const char *name = name_of(path);
    kind_of[fd] = NONE;
    if (root && strcmp(path, marks) == 0) {
        kind_of[fd] = MARKS;
    } else if (name) {
        struct stat stat;
        if (fstat(fd, &stat) != 0) abort();
        kind_of[fd] = S_ISDIR(stat.st_mode) ? FOLDER : FILE_;
        inode_of[fd] = stat.st_ino;
        if (!was_there && (flags & O_CREAT)) note('C', stat.st_ino, 0, name, NULL, 0);
        else if (flags & O_TRUNC) note('T', stat.st_ino, 0, NULL, NULL, 0);
    }
    return fd;
}

#define OPEN(function)                                                        \
    int function(const char *path, int flags, ...) {                          \
        va_list list;                                                         \
        va_start(list, flags);                                                \
        mode_t mode = va_arg(list, mode_t);                                   \
        va_end(list);                                                         \
        pthread_mutex_lock(&lock);                                            \
        int was_there = root && access(path, F_OK) == 0;                      \
        int fd = opened(REAL(function)(path, flags, mode), path, flags, was_there); \
        pthread_mutex_unlock(&lock);                                          \
        return fd;                                                            \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    pthread_mutex_lock(&lock);
    if (fd >= 0 && fd < FDS) kind_of[fd] = NONE;
    int result = REAL(close)(fd);
    pthread_mutex_unlock(&lock);
    return result;
}

static void wrote(int fd, uint64_t at, const void *data, ssize_t size) {
    if (size <= 0) return;
    if (kind(fd) == MARKS) note('M', 0, 0, NULL, data, size);
    if (kind(fd) == FILE_) note('W', inode_of[fd], at, NULL, data, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (kind(fd) == NONE) return REAL(write)(fd, data, size);
    pthread_mutex_lock(&lock);
    uint64_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, size);
    wrote(fd, at, data, done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define PWRITE(function, offset)                                              \
    ssize_t function(int fd, const void *data, size_t size, offset at) {      \
        if (kind(fd) == NONE) return REAL(function)(fd, data, size, at);      \
        pthread_mutex_lock(&lock);                                            \
        ssize_t done = REAL(function)(fd, data, size, at);                    \
        wrote(fd, at, data, done);                                            \
        pthread_mutex_unlock(&lock);                                          \
        return done;                                                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define FTRUNCATE(function, offset)                                           \
    int function(int fd, offset size) {                                       \
        pthread_mutex_lock(&lock);                                            \
        int result = REAL(function)(fd, size);                                \
        if (result == 0 && kind(fd) == FILE_) note('T', inode_of[fd], size, NULL, NULL, 0); \
        pthread_mutex_unlock(&lock);                                          \
        return result;                                                        \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

/* Only the journal is synced in the program's stead: not at all. The machine does not lose its power. */
static int synced(int fd) {
    pthread_mutex_lock(&lock);
    if (kind(fd) == FILE_) note('S', inode_of[fd], 0, NULL, NULL, 0);
    if (kind(fd) == FOLDER) note('D', 0, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}
int fsync(int fd) { return synced(fd); }
int fdatasync(int fd) { return synced(fd); }

int rename(const char *from, const char *to) {
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(from, to);
    const char *name = name_of(from), *other = name_of(to);
    if (result == 0 && name && other) note('R', 0, 0, name, other, strlen(other));
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) {
    pthread_mutex_lock(&lock);
    int result = REAL(unlink)(path);
    const char *name = name_of(path);
    if (result == 0 && name) note('U', 0, 0, name, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
