#define OUTRIDER_FEW_ROWS few_rows_avx512
#include "kernels/cpu/few_rows.inc"
