/* CRC-32C (Castagnoli): the checksum of every file that we write and read again. */
#ifndef TANDEM_BASE_CRC32C_H
#define TANDEM_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The sum of n more bytes; begin with 0. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t n);

#endif
