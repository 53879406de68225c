#define OUTRIDER_FEW_ROWS few_rows_avx2
#include "kernels/cpu/few_rows.inc"
