/* Loaded before everything else (LD_PRELOAD): counts the calls that write to files of a store, can
   kill the process at the n-th of them (also in its middle), and can record them: the record gives
   the states that a power failure can leave. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static long count = 0, deadly = -1;
static int halved = 0, record = -1;

void strike_at(long number, int in_the_middle) { count = 0; deadly = number; halved = in_the_middle; }
long strike_count(void) { return count; }
void strike_record(const char *path) { record = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600); }

/* 0: not of a store; 1: the rows; 2: their journal. */
static int kind_of(const char *path) {
  if (!strstr(path, "/features-v")) return 0;
  return strstr(path, "-journal") ? 2 : 1;
}
static int kind_of_file(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = 0;
  return kind_of(path);
}
static ssize_t real_write(int file, const void *data, size_t n) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = dlsym(RTLD_NEXT, "write");
  return real(file, data, n);
}
static void note(char what, int kind, int64_t offset, const void *data, int64_t n) {
  if (record < 0) return;
  struct { char what, kind; char pad[6]; int64_t offset, n; } head = {what, kind, {0}, offset, n};
  real_write(record, &head, sizeof head);
  if (data) real_write(record, data, n);
}
static int strikes(void) { return ++count == deadly; }
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define PWRITE(name, type)                                                       \
  ssize_t name(int file, const void *data, size_t n, type offset) {              \
    static ssize_t (*real)(int, const void *, size_t, type);                     \
    if (!real) real = dlsym(RTLD_NEXT, #name);                                   \
    int kind = kind_of_file(file);                                               \
    if (kind && strikes()) { if (halved) real(file, data, n / 2, offset); die(); } \
    if (kind) note('w', kind, offset, data, n);                                  \
    return real(file, data, n, offset);                                          \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int file, const void *data, size_t n) {
  int kind = file > 2 && file != record ? kind_of_file(file) : 0;
  if (kind && strikes()) { if (halved) real_write(file, data, n / 2); die(); }
  if (kind) note('w', kind, lseek(file, 0, SEEK_CUR), data, n);
  return real_write(file, data, n);
}

#define TRUNCATE(name, type)                        \
  int name(int file, type length) {                 \
    static int (*real)(int, type);                  \
    if (!real) real = dlsym(RTLD_NEXT, #name);      \
    int kind = kind_of_file(file);                  \
    if (kind && strikes()) die();                   \
    if (kind) note('t', kind, length, NULL, 0);     \
    return real(file, length);                      \
  }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                  \
  int name(int file) {                              \
    static int (*real)(int);                        \
    if (!real) real = dlsym(RTLD_NEXT, #name);      \
    int kind = kind_of_file(file);                  \
    if (kind && strikes()) die();                   \
    if (kind) note('s', kind, 0, NULL, 0);          \
    return real(file);                              \
  }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path) {
  static int (*real)(const char *);
  if (!real) real = dlsym(RTLD_NEXT, "unlink");
  int kind = kind_of(path);
  if (kind && strikes()) die();
  if (kind) note('u', kind, 0, NULL, 0);
  return real(path);
}
