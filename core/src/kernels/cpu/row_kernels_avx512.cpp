#define OUTRIDER_ROW_KERNELS row_kernels_avx512
#include "kernels/cpu/row_kernels.inc"
