/* Where the block for multi-token prediction goes: V3 and V4-Flash with it, by header alone. It stands
 * with the model's head, costs no layer its place on the GPU, and every byte of it is counted once. */
#include <stdlib.h>
#include <unistd.h>

#include "src/base/util.h"
#include "src/model/placement.h"
#include "tests/tiny_model.h"

#define GIB ((uint64_t)1 << 30)
#define ROOM_BYTES 12345678

static uint64_t room_bytes(const struct model *m, enum tensor_type type, int64_t n_ctx, int n_batch)
{
    (void)m, (void)type, (void)n_batch;
    return ROOM_BYTES + (uint64_t)n_ctx;
}

static bool make(struct placement *p, const struct model *m, uint64_t ram, uint64_t vram,
                 bool draft, int gpu_layers)
{
    struct rates here = { .n_cores = 16, .ram_bytes = ram, .vram_bytes = vram };
    struct placement_wishes w = placement_wishes_default();
    struct error err = { 0 };
    w.draft = draft;
    w.draft_bytes = room_bytes;
    w.gpu_layers = gpu_layers;
    return CHECK_MSG(placement_make(p, m, &here, &w, &err), "%s", err.text);
}

/* Bytes of the block by home, as its tensors add up; what is no tensor lies with its trunk. */
static void check_block(const struct model *m, const struct placement *p, enum home trunk,
                        enum home experts)
{
    uint64_t sums[N_HOMES] = { 0 }, all[N_HOMES] = { 0 };
    int n = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (t->role != ROLE_MTP)
            continue;
        enum home wanted = t->spec->role == ROLE_ROUTED ? experts : trunk;
        if (wanted == HOME_MAPPED && t->spec->is_f32)
            wanted = HOME_RAM;
        n++;
        if (!CHECK_MSG(p->homes[i] == wanted, "%s: %s", t->tensor->name,
                       home_name((enum home)p->homes[i])))
            return;
        sums[wanted] += t->spec->is_f32 ? 4 * t->tensor->ne[0] * tensor_rows(t->tensor)
                                        : t->tensor->bytes;
    }
    sums[trunk == HOME_GPU ? HOME_GPU : HOME_RAM] += ROOM_BYTES + (uint64_t)p->n_ctx;
    CHECK(n > 20);
    for (int home = 0; home < N_HOMES; home++) {
        uint64_t borders = (uint64_t)n * 512; /* tensors begin on lines; derived: none here */
        CHECK_MSG(p->bytes[PART_DRAFT][home] >= sums[home] &&
                  p->bytes[PART_DRAFT][home] <= sums[home] + borders, "%s: %llu bytes, tensors %llu",
                  home_name((enum home)home), (unsigned long long)p->bytes[PART_DRAFT][home],
                  (unsigned long long)sums[home]);
        CHECK_INT(p->bytes_per_token[PART_DRAFT][home], 0);
        for (int part = 0; part < N_PARTS; part++)
            all[home] += p->bytes[part][home];
    }
    CHECK_INT(p->vram_used, all[HOME_GPU]);
    CHECK_INT(p->ram_used, all[HOME_RAM]);
    CHECK_INT(p->ram_mapped, all[HOME_MAPPED]);
}

static void check_none(const struct model *m, const struct placement *p)
{
    CHECK(!p->drafts);
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].role == ROLE_MTP && !CHECK(p->homes[i] == HOME_NONE))
            return;
    for (int home = 0; home < N_HOMES; home++)
        CHECK_INT(p->bytes[PART_DRAFT][home], 0);
}

static void test_homes(const struct model *m)
{
    struct placement p, without;
    check_case("trunk on the GPU: the block's too, its experts with the others");
    if (make(&p, m, 1200 * GIB, 80 * GIB, true, PLACE_AUTO)) {
        CHECK(p.fits && p.drafts && p.head_on_gpu);
        check_block(m, &p, HOME_GPU, HOME_MAPPED);
        placement_free(&p);
    }
    check_case("everything on the GPU: all of the block");
    if (make(&p, m, 1200 * GIB, 1600 * GIB, true, PLACE_AUTO)) {
        CHECK(p.fits && p.drafts && p.bytes[PART_ROUTED][HOME_MAPPED] == 0);
        check_block(m, &p, HOME_GPU, HOME_GPU);
        placement_free(&p);
    }
    check_case("no GPU: mapped, beside weights that are copied");
    if (make(&p, m, 1600 * GIB, 0, true, PLACE_AUTO)) {
        CHECK(p.fits && p.drafts && p.copied);
        check_block(m, &p, HOME_MAPPED, HOME_MAPPED);
        placement_free(&p);
    }
    check_case("not asked for: no place");
    if (make(&p, m, 1200 * GIB, 80 * GIB, false, PLACE_AUTO)) {
        check_none(m, &p);
        placement_free(&p);
    }
    check_case("some layers on the GPU: mapped, with the head");
    if (make(&p, m, 1200 * GIB, 80 * GIB, true, 10)) {
        CHECK(p.fits && p.gpu_layers == 10 && p.drafts);
        check_block(m, &p, HOME_MAPPED, HOME_MAPPED);
        placement_free(&p);
    }
    check_case("all layers, the head not: beside the head");
    if (make(&p, m, 1200 * GIB, 80 * GIB, true, m->params.n_layers)) {
        CHECK(p.fits && p.drafts && !p.head_on_gpu);
        check_block(m, &p, HOME_MAPPED, HOME_MAPPED);
        placement_free(&p);
    }
    check_case("no room for it beside all layers: they stay, with their context");
    if (!make(&without, m, 1200 * GIB, 80 * GIB, false, PLACE_ALL))
        return;
    uint64_t tight = without.vram_used - without.bytes[PART_EXPERT_CACHE][HOME_GPU] +
                     ((uint64_t)64 << 20);
    int64_t n_ctx = without.n_ctx;
    placement_free(&without);
    if (make(&p, m, 1200 * GIB, tight, true, PLACE_AUTO)) {
        CHECK(p.fits && p.head_on_gpu && p.gpu_layers == m->params.n_layers);
        CHECK_INT(p.n_ctx, n_ctx);
        check_none(m, &p);
        placement_free(&p);
    }
    check_case("no room for it beside a copy: the copy stays");
    if (!make(&without, m, 1600 * GIB, 0, false, PLACE_AUTO))
        return;
    tight = without.ram_used + ((uint64_t)2048 << 20) + ((uint64_t)64 << 20);
    CHECK(without.copied);
    placement_free(&without);
    if (make(&p, m, tight, 0, true, PLACE_AUTO)) {
        CHECK(p.fits && p.copied);
        check_none(m, &p);
        placement_free(&p);
    }
}

static void test_file(const char *options)
{
    char path[256];
    struct model m = { 0 };
    struct error err = { 0 };
    check_case("%s", options);
    tiny_path(path, "placement_draft");
    if (tiny_write(path, options) &&
        CHECK_MSG(model_open(&m, path, NUMERICS_OFFICIAL, &err), "%s", err.text))
        test_homes(&m);
    model_close(&m);
    unlink(path);
}

int main(void)
{
    test_file("--like v3 --generation b-mtp --type q4_k --sparse");
    test_file("--like v4-flash --generation b-mtp --type native --sparse");
    return check_finish();
}
