#define OUTRIDER_ROW_KERNELS row_kernels_baseline
#include "kernels/cpu/row_kernels.inc"
