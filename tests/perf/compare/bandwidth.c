/* Reads anonymous memory, or files through mappings, with some threads and prints
 * the median speed.
 *
 *     bandwidth THREADS [GB [PASSES]]
 *     bandwidth THREADS PASSES FILE...
 *
 * A step of decoding reads its weights once and computes little, so this is the
 * ceiling that both programs run against, and it drifts on a shared machine. Files
 * may be slower than other memory: their pages lie where the page cache put them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE 64
#define UNIT ((size_t)4 * LINE)
#define AHEAD (8 << 10) /* bytes that the prefetch runs ahead */

struct part {
    pthread_t thread;
    char *data;
    size_t size;
    int passes;
    int mapped;
    uint64_t sum;
};

static pthread_barrier_t barrier;

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Four independent sums, as one alone would wait for its own last addition. */
static uint64_t add_up(const char *data, size_t size)
{
    typedef uint64_t vector __attribute__((vector_size(LINE)));
    vector sums[4] = {{0}};
    uint64_t total = 0;

    for (size_t at = 0; at + 4 * LINE <= size; at += 4 * LINE)
        for (int i = 0; i < 4; i++) {
            const char *line = data + at + (size_t)i * LINE;

            __builtin_prefetch(line + AHEAD);
            sums[i] += *(const vector *)line;
        }
    for (int i = 0; i < 4; i++)
        for (size_t lane = 0; lane < LINE / sizeof(uint64_t); lane++)
            total += sums[i][lane];
    return total;
}

static void *work(void *argument)
{
    struct part *part = argument;

    if (part->mapped) {
        madvise(part->data, part->size, MADV_POPULATE_READ);
    } else {
        /* The thread that reads touches first, so its node holds the pages. */
        madvise(part->data, part->size, MADV_HUGEPAGE);
        memset(part->data, 1, part->size);
    }
    for (int pass = 0; pass < part->passes; pass++) {
        pthread_barrier_wait(&barrier);
        part->sum += add_up(part->data, part->size);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void *map(size_t size, int file)
{
    void *data = file < 0
        ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        : mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);

    if (data == MAP_FAILED) {
        perror("bandwidth");
        exit(1);
    }
    return data;
}

/* Adds to `seconds` what each pass takes, over a file or, where it is negative, over
 * memory of its own. */
static void run(int threads, size_t size, int file, int passes, double *seconds)
{
    struct part *parts = calloc((size_t)threads, sizeof *parts);
    size_t each = size / (size_t)threads / UNIT * UNIT;
    char *whole = file < 0 ? NULL : map(size, file);
    uint64_t sum = 0;

    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        parts[i].size = each;
        parts[i].passes = passes;
        parts[i].mapped = whole != NULL;
        parts[i].data = whole ? whole + each * (size_t)i : map(each, -1);
        if (pthread_create(&parts[i].thread, NULL, work, &parts[i]) != 0) {
            perror("bandwidth");
            exit(1);
        }
    }
    for (int pass = 0; pass < passes; pass++) {
        double started;

        pthread_barrier_wait(&barrier);
        started = now();
        pthread_barrier_wait(&barrier);
        seconds[pass] += now() - started;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(parts[i].thread, NULL);
        sum += parts[i].sum;
        if (!whole)
            munmap(parts[i].data, parts[i].size);
    }
    /* Every byte is 1: a wrong sum means that not all of them were read. */
    if (!whole
        && sum != (uint64_t)passes * (uint64_t)threads * (each / 8) * 0x0101010101010101u) {
        fprintf(stderr, "bandwidth: the sum is wrong\n");
        exit(1);
    }
    if (whole)
        munmap(whole, size);
    pthread_barrier_destroy(&barrier);
    free(parts);
}

/* Bytes of the file, which is open then. */
static size_t open_file(const char *path, int *file)
{
    struct stat status;

    *file = open(path, O_RDONLY);
    if (*file < 0 || fstat(*file, &status) != 0) {
        perror(path);
        exit(1);
    }
    return (size_t)status.st_size;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    int files = argc > 3 && atoi(argv[3]) == 0;
    size_t gigabytes = argc > 2 && !files ? (size_t)atoi(argv[2]) : 2;
    int passes = files ? atoi(argv[2]) : argc > 3 ? atoi(argv[3]) : 5;
    size_t size = gigabytes * 1000000000;
    double seconds[99] = {0};

    if (threads < 1 || gigabytes < 1 || passes < 1 || passes > 99) {
        fprintf(stderr, "usage: bandwidth THREADS [GB [PASSES]]\n"
                        "       bandwidth THREADS PASSES FILE...\n");
        return 2;
    }
    if (files)
        size = 0;
    else
        run(threads, size, -1, passes, seconds);
    for (int i = 3; files && i < argc; i++) {
        int file;
        size_t length = open_file(argv[i], &file);

        if (length >= UNIT * (size_t)threads) {
            run(threads, length, file, passes, seconds);
            size += length;
        }
        close(file);
    }
    qsort(seconds, (size_t)passes, sizeof *seconds, by_value);
    printf("%.2f\n", (double)size / seconds[passes / 2] / 1e9);
    return 0;
}
