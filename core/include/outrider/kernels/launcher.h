#pragma once

/// Marks the declaration of a host function that launches kernels and is defined in a .cu file. A
/// build without CUDA leaves that file out, and the function's address is then null: no source with
/// the same symbols has to stand in for it.
#define OUTRIDER_LAUNCHER __attribute__((weak, visibility("hidden")))
