/* Looking on while a model computes: the inputs of every weight matrix, for calibration.
 *
 * An observed device does what it always does; its table of operations is replaced by one that
 * tells the observer first. Of a fused operation the inputs are those of the matrices inside it.
 * The output head is left out: it is never rounded by importance. */
#ifndef TANDEM_ENGINE_OBSERVE_H
#define TANDEM_ENGINE_OBSERVE_H

#include "src/device.h"

struct observer {
    /* `inputs` [n, w->cols], `stride` floats from row to row, meet matrix `matrix` of w, and that
     * of `also` (may be NULL), which sees the same. Called by one thread; may be NULL. */
    void (*inputs)(void *ctx, const struct weight *w, const struct weight *also, int64_t matrix,
                   const float *inputs, int64_t stride, int n);
    /* Attention or routed experts of a layer begin: what was read of the weights before is not
     * wanted again in this step. May be NULL. */
    void (*pause)(void *ctx);
    void *ctx;
};

/* For a device of device_cpu_open, from now on until it is closed. Borrows the observer. With
 * latent attention the device must have been made for heads of nope + rope + rank elements. */
bool observe_device(struct device *d, const struct observer *o, struct error *err);

#endif
