#include "outrider/ops/input_checks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

std::string description_of(const NamedInput& input) {
  if (!input.value.defined()) return fmt::format("{} undefined", input.name);
  return fmt::format("{} {} [{}] on {}", input.name, c10::toString(input.value.scalar_type()),
                     fmt::join(input.value.sizes(), ","), input.value.device().str());
}

std::string list_of(const std::vector<NamedInput>& inputs, const char* shape) {
  std::vector<std::string> names;
  for (const auto& input : inputs) names.emplace_back(input.name);
  return join(names, " and ") + shape;
}

bool have_sizes(const std::vector<NamedInput>& inputs, at::IntArrayRef sizes) {
  return std::ranges::all_of(inputs, [&](const auto& input) {
    return input.value.defined() && input.value.sizes() == sizes;
  });
}

}  // namespace

void require_inputs(bool fits, const std::string& name, const std::string& takes,
                    const std::vector<NamedInput>& inputs) {
  if (fits) return;
  std::vector<std::string> given;
  for (const auto& input : inputs) given.push_back(description_of(input));
  throw Error(ErrorCode::kInternal,
              fmt::format("{}: takes {}; got {}", name, takes, join(given, ", ")));
}

bool are_alike(const std::vector<NamedInput>& inputs) {
  return std::ranges::all_of(inputs, [&](const auto& input) {
    const auto& first = inputs.front().value;
    return input.value.defined() && input.value.scalar_type() == first.scalar_type() &&
           input.value.device() == first.device();
  });
}

void require_rows(const std::string& name, const std::vector<NamedInput>& rows,
                  const std::vector<NamedInput>& vectors) {
  auto all = rows;
  all.insert(all.end(), vectors.begin(), vectors.end());
  const auto& first = rows.front().value;
  const bool fits = first.defined() && first.dim() >= 1 && have_sizes(rows, first.sizes()) &&
                    have_sizes(vectors, {first.size(-1)}) && are_alike(all);
  const auto takes = list_of(rows, " [...,h]") +
                     (vectors.empty() ? "" : ", " + list_of(vectors, " [h]")) +
                     ", all of one type and device";
  require_inputs(fits, name, takes, all);
}

}  // namespace outrider
