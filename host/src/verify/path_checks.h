#pragma once

#include <string>

#include "outrider/model/causal_lm.h"
#include "verify/check.h"

namespace outrider::verify {

/// How far values of a type may be apart that two orders of summation gave, relative to all of
/// them. In half types the roundings of many layers add up to a tenth.
double tolerance_of(at::ScalarType type);

/// The base in one pass, as training runs it, against passes over a cache, as decoding does:
/// "base decode". ids [1,S], S ≥ 4.
Checks check_base_paths(CausalLM& base, const at::Tensor& ids);

/// The training forward of `trained` against the Drafter of `served` over the same tokens, whose
/// distributions are compared step by step; `name` is the check's. The two are one draft, or one
/// that was trained and what another folder holds of it.
Checks check_draft_paths(const std::string& name, CausalLM& base, Draft& trained, Draft& served,
                         const at::Tensor& ids);

}  // namespace outrider::verify
