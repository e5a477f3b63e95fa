/* Makes writes below a folder fail while a control file names an error: EIO, EROFS or ENOSPC.

   Loaded with LD_PRELOAD. FAILING_FOLDER is the folder, FAILING_CONTROL the control file; its first
   line is the error, and "sync" in the second makes only fsync and fdatasync fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int in_folder(const char *path) {
    const char *folder = getenv("FAILING_FOLDER");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int descriptor_in_folder(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return in_folder(path);
}

/* The error to return now, or 0. */
static int injected_error(int is_sync) {
    static int (*real_open)(const char *, int, ...);
    static ssize_t (*real_read)(int, void *, size_t);
    if (!real_open) real_open = dlsym(RTLD_NEXT, "open");
    if (!real_read) real_read = dlsym(RTLD_NEXT, "read");
    const char *control = getenv("FAILING_CONTROL");
    if (!control) return 0;
    int fd = real_open(control, O_RDONLY);
    if (fd < 0) return 0;
    char text[64];
    ssize_t size = real_read(fd, text, sizeof text - 1);
    close(fd);
    if (size <= 0) return 0;
    text[size] = 0;
    if (strstr(text, "sync") && !is_sync) return 0;
    if (strncmp(text, "EIO", 3) == 0) return EIO;
    if (strncmp(text, "EROFS", 5) == 0) return EROFS;
    if (strncmp(text, "ENOSPC", 6) == 0) return ENOSPC;
    return 0;
}

static int fails(int fd, int is_sync) {
    if (!descriptor_in_folder(fd)) return 0;
    int error = injected_error(is_sync);
    if (error) errno = error;
    return error;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    return fails(fd, 0) ? -1 : real(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL(pwrite);
    return fails(fd, 0) ? -1 : real(fd, data, size, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(pwrite64);
    return fails(fd, 0) ? -1 : real(fd, data, size, offset);
}
int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return fails(fd, 0) ? -1 : real(fd, size);
}
int fsync(int fd) {
    REAL(fsync);
    return fails(fd, 1) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return fails(fd, 1) ? -1 : real(fd);
}
