/* Drafting with a GPU: the block for multi-token prediction computes where the head is, there with
 * its experts on the CPU, or, where the GPU has but some of the layers, on the CPU. Guesses are
 * verified in recorded steps. Tokens are those of the CPU without guesses, with every way of handing
 * over, for caches of rows, with an indexer, and of rings; and memory is what the placement said.
 * What lies elsewhere, a lost card, and files of the cache: test_gpu_draft_places.c. */
#include "tests/gpu_draft_rig.h"

#define MIB ((uint64_t)1 << 20)

static uint64_t (*card_bytes)(void), (*count_replays)(void);

static uint64_t asked_of(uint64_t (*f)(void))
{
    return f ? f() : 0;
}

/* ---- the same tokens ---- */

static void check_memory(struct engine *e, uint64_t taken)
{
    const struct placement *p = engine_placement(e);
    uint64_t planned = p->vram_used - p->bytes[PART_DRIVER][HOME_GPU];
    uint64_t records = (uint64_t)engine_model(e)->params.n_layers * MIB;
    CHECK_MSG(taken <= planned + MIB && taken + MIB + records >= planned,
              "%llu bytes of the card, %llu planned", (unsigned long long)taken,
              (unsigned long long)planned);
}

/* The last n_layers are the card's, 0: everything. */
static void test_way(const char *path, enum handoff_way way, int n_slots, int n_layers)
{
    struct placement_wishes w = wishes(true);
    w.gpu_experts = n_slots;
    check_case("hand-off %d, %d slots, %d layers: guesses, their steps recorded", way, n_slots,
               n_layers);
    struct engine *e = open_engine(path, (struct engine_options){ .gpu = GPU_MUST, .wishes = &w,
                                                                  .handoff = way,
                                                                  .gpu_layers = n_layers });
    if (e && CHECK(engine_placement(e)->drafts)) {
        CHECK_INT(engine_placement(e)->bytes[PART_DRAFT][HOME_GPU] == 0, n_layers > 0);
        struct session *s = open_session(e, DRAFT_THREE);
        uint64_t replays = asked_of(count_replays), taken = asked_of(card_bytes);
        if (s) {
            check_answer(s, 0, NULL);
            check_guesses(s);
            check_like_cpu(DRAFT_THREE);
        }
        replays = asked_of(count_replays) - replays;
        if (count_replays)
            CHECK_MSG(way == HANDOFF_STOP ? replays == 0 : replays > N_ANSWER / 4, "%d replays",
                      (int)replays);
        if (card_bytes && s) {
            CHECK_INT(card_bytes(), taken); /* nothing grows */
            check_memory(e, taken);
        }
        struct session *plain = n_layers ? NULL : open_session(e, DRAFT_OFF); /* beside it */
        if (plain)
            check_answer(plain, 0, NULL);
        session_close(plain);
        session_close(s);
    }
    engine_close(e);
    CHECK_INT(asked_of(card_bytes), 0);
}

static void test_model(const char *like, int n_layers, bool all)
{
    char path[256];
    bool ok = gpu_draft_begin(path, "gpu_draft", like, n_layers);
    for (int way = HANDOFF_STOP; ok && way <= HANDOFF_FLAGS; way++)
        if (all || way == HANDOFF_FLAGS)
            test_way(path, (enum handoff_way)way, way == HANDOFF_CALLBACK ? 4 : 0, 0);
    if (ok) /* some of the layers on the card, the head with the CPU */
        test_way(path, HANDOFF_CALLBACK, 4, n_layers - 1);
    if (ok && all) {
        test_way(path, HANDOFF_STOP, 0, 1);
        test_way(path, HANDOFF_FLAGS, 0, n_layers);
    }
    unlink(path);
}

int main(void)
{
    if (!gpu_draft_load())
        return check_finish();
    gpu_test_hook("cuda_host_replays", &count_replays);
    gpu_test_hook("cuda_host_bytes", &card_bytes);
    test_model("--like tiny-v3", 3, true);
    test_model("--like tiny-v4", 6, false);
    test_model("--arch deepseek32", 3, false);
    return check_finish();
}
