/* Reads anonymous memory with some threads and prints the median speed.
 *
 *     bandwidth THREADS [GB [PASSES]]
 *
 * A step of decoding reads its weights once and computes little, so this is the
 * ceiling that both programs run against, and it drifts on a shared machine.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define LINE 64
#define AHEAD (8 << 10) /* bytes that the prefetch runs ahead */

struct part {
    pthread_t thread;
    char *data;
    size_t size;
    int passes;
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

    /* The thread that reads touches first, so its node holds the pages. */
    madvise(part->data, part->size, MADV_HUGEPAGE);
    memset(part->data, 1, part->size);
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

static void run(int threads, size_t size, int passes, double *speeds)
{
    struct part *parts = calloc((size_t)threads, sizeof *parts);
    uint64_t sum = 0;

    pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        parts[i].size = size / (size_t)threads;
        parts[i].passes = passes;
        parts[i].data = mmap(NULL, parts[i].size, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (parts[i].data == MAP_FAILED
            || pthread_create(&parts[i].thread, NULL, work, &parts[i]) != 0) {
            perror("bandwidth");
            exit(1);
        }
    }
    for (int pass = 0; pass < passes; pass++) {
        double started;

        pthread_barrier_wait(&barrier);
        started = now();
        pthread_barrier_wait(&barrier);
        speeds[pass] = (double)size / (now() - started) / 1e9;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(parts[i].thread, NULL);
        sum += parts[i].sum;
    }
    /* Every byte is 1: a wrong sum means that not all of them were read. */
    if (sum != (uint64_t)passes * threads * (parts[0].size / 8) * 0x0101010101010101u) {
        fprintf(stderr, "bandwidth: the sum is wrong\n");
        exit(1);
    }
    free(parts);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 0;
    size_t gigabytes = argc > 2 ? (size_t)atoi(argv[2]) : 2;
    int passes = argc > 3 ? atoi(argv[3]) : 5;
    size_t unit = 4 * LINE * (size_t)(threads > 0 ? threads : 1);
    double speeds[99];

    if (threads < 1 || gigabytes < 1 || passes < 1 || passes > 99) {
        fprintf(stderr, "usage: bandwidth THREADS [GB [PASSES]]\n");
        return 2;
    }
    run(threads, gigabytes * 1000000000 / unit * unit, passes, speeds);
    qsort(speeds, (size_t)passes, sizeof *speeds, by_value);
    printf("%.2f\n", speeds[passes / 2]);
    return 0;
}
