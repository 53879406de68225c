#include "vocabulary_maps.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "outrider/error.h"

namespace outrider::eagle {
namespace {

at::Tensor target_ids(const at::Tensor& d2t) {
  const auto offsets = d2t.cpu().to(at::kLong);
  return offsets + at::arange(offsets.size(0), at::kLong);
}

bool are_tokens(const at::Tensor& ids, int64_t vocab_size) {
  return ids.ge(0).all().item<bool>() && ids.lt(vocab_size).all().item<bool>();
}

bool are_increasing(const at::Tensor& ids) {
  return ids.size(0) < 2 || ids.diff().gt(0).all().item<bool>();
}

at::Tensor sorted(const at::Tensor& ids) { return std::get<0>(ids.sort()); }

bool has_form(const at::Tensor& map, int64_t size, bool boolean) {
  const bool right_type = boolean ? map.scalar_type() == at::kBool
                                  : at::isIntegralType(map.scalar_type(), /*includeBool=*/false);
  return map.dim() == 1 && map.size(0) == size && right_type;
}

std::string wrong_form(const char* name, const at::Tensor& map, int64_t size, const char* type) {
  return fmt::format("wrong shape or type: {} is [{}] {}, expected [{}] {}", name,
                     fmt::join(map.sizes(), ","), at::toString(map.scalar_type()), size, type);
}

// Position in both lists of where two vocabularies part.
std::string difference(const at::Tensor& marked, const at::Tensor& named) {
  const int64_t common = std::min(marked.size(0), named.size(0));
  const auto parted = marked.slice(0, 0, common).ne(named.slice(0, 0, common)).nonzero();
  if (parted.size(0) == 0) return "one is the beginning of the other";
  const int64_t at = parted[0][0].item<int64_t>();
  return fmt::format("draft id {} is token {} in t2d, {} in d2t", at, marked[at].item<int64_t>(),
                     named[at].item<int64_t>());
}

void check_t2d(const at::Tensor& t2d, const at::Tensor& ids, const VocabularySizes& sizes,
               std::vector<std::string>& problems) {
  if (!has_form(t2d, sizes.base, /*boolean=*/true)) {
    problems.push_back(wrong_form("t2d", t2d, sizes.base, "Bool"));
    return;
  }
  const auto marked = t2d.nonzero().flatten();
  if (!ids.defined() || at::equal(marked, sorted(ids))) return;
  problems.push_back(fmt::format("d2t and t2d disagree: t2d marks {} tokens, d2t names {}; {}",
                                 marked.size(0), ids.size(0), difference(marked, sorted(ids))));
}

// The draft's tokens, or undefined where d2t is missing or malformed. Readers that find the head's
// rows by t2d need them in order.
at::Tensor checked_ids(const TensorMap& tensors, const VocabularySizes& sizes, bool in_order,
                       std::vector<std::string>& problems) {
  const auto found = tensors.find("d2t");
  if (found == tensors.end()) return {};
  if (!has_form(found->second, sizes.draft, /*boolean=*/false)) {
    problems.push_back(wrong_form("d2t", found->second, sizes.draft, "Long"));
    return {};
  }
  auto ids = target_ids(found->second);
  if (are_tokens(ids, sizes.base) && are_increasing(in_order ? ids : sorted(ids))) return ids;
  problems.push_back(fmt::format("d2t: draft id plus offset must be {} token ids below {}",
                                 in_order ? "increasing" : "different", sizes.base));
  return {};
}

}  // namespace

void add_vocabulary_maps(TensorMap& tensors, const VocabularySizes& sizes) {
  tensors.emplace("d2t", at::zeros({sizes.draft}, at::kLong));
  std::vector<std::string> problems;
  const auto ids = checked_ids(tensors, sizes, /*in_order=*/true, problems);
  if (!problems.empty()) {
    throw Error(ErrorCode::kInvalidData, problems.front(),
                "format 'hf' keeps the order by frequency that ModelOpt gives a vocabulary");
  }
  tensors["t2d"] = at::zeros({sizes.base}, at::kBool).index_fill_(0, ids, true);
}

void take_vocabulary_maps(TensorMap& tensors, const VocabularySizes& sizes, MapsInFiles expected,
                          std::vector<std::string>& problems) {
  const bool in_order = expected != MapsInFiles::kOptionalT2d;
  const auto ids = checked_ids(tensors, sizes, in_order, problems);
  const auto t2d = tensors.extract("t2d");
  const bool both = expected == MapsInFiles::kAlways ||
                    (expected == MapsInFiles::kWhenReduced && sizes.reduced());
  if (t2d.empty() && both) problems.push_back("missing: t2d");
  if (!tensors.contains("d2t") && (both || sizes.reduced())) problems.push_back("missing: d2t");
  if (!t2d.empty()) check_t2d(t2d.mapped(), ids, sizes, problems);
  if (sizes.reduced()) {
    // A missing or malformed map is named above, and not a second time as the draft's tensor.
    if (!ids.defined()) tensors["d2t"] = at::zeros({sizes.draft}, at::kLong);
  } else {
    tensors.erase("d2t");
  }
}

}  // namespace outrider::eagle
