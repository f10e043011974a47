/* The chat fuzz target on random inputs in every test run; it aborts on a finding. */
#include "tests/check.h"
#include "tests/fuzz_chat.c"

int main(void)
{
    check_case("random metadata and conversations");
    for (int i = 0; i < 4000; i++) {
        uint8_t data[600];
        size_t size = check_random() % sizeof data;
        for (size_t k = 0; k < size; k++)
            data[k] = (uint8_t)check_random();
        CHECK(LLVMFuzzerTestOneInput(data, size) == 0);
    }
    return check_finish();
}
