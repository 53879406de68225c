#pragma once

#include <cstdint>
#include <memory>

#include "outrider/api.h"
#include "outrider/model/drafter.h"

namespace outrider::decode {

/// A drafter that needs no training: it proposes what followed the latest earlier occurrence of the
/// sequence's last tokens, of as many of them as possible, `longest` at most; nothing where the
/// last token is new. A chain, where a tree is asked for one that is as deep.
OUTRIDER_API std::unique_ptr<Drafter> prompt_lookup(int64_t longest = 3);

}  // namespace outrider::decode
