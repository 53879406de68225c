#define OUTRIDER_FEW_ROWS few_rows_baseline
#include "kernels/cpu/few_rows.inc"
