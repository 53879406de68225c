#pragma once

#include "verify/check.h"

namespace outrider::cli {

/// A table of what was compared.
void print_checks(const verify::Checks& checks);

/// Throws kIncompatibleCheckpoint naming the causes where anything differs.
void require_same(const verify::Checks& checks);

}  // namespace outrider::cli
