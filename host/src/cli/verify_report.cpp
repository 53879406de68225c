#include "cli/verify_report.h"

#include <fmt/format.h>

#include <utility>

#include "cli/common.h"
#include "outrider/error.h"
#include "outrider/host/checkpoint.h"
#include "outrider/text.h"

namespace outrider::cli {
namespace {

const char* word_for(verify::Outcome outcome) {
  constexpr const char* kWords[] = {"same", "DIFFERS", "skipped"};
  return kWords[static_cast<int>(outcome)];
}

}  // namespace

std::shared_ptr<CausalLM> load_to_verify(const std::filesystem::path& folder, LoadOptions load,
                                         const ModelOptions& options) {
  load = with_options(std::move(load), options);
  if (!load.dtype && read_config(folder).dtype != at::kDouble) load.dtype = at::kFloat;
  load.on_note = show_note;
  return from_pretrained(folder, load);
}

void print_checks(const verify::Checks& checks) {
  Table table({"CHECK", "RESULT", "DIFFERENCE", "DETAIL"});
  for (const auto& check : checks) {
    const bool differs = check.outcome == verify::Outcome::kDiffers;
    table.add({check.name, word_for(check.outcome),
               check.figure ? fmt::format("{:.1e}", *check.figure) : "",
               differs ? check.cause + ": " + check.detail : check.detail});
  }
  table.print();
}

void require_same(const verify::Checks& checks) {
  const auto causes = verify::causes_in(checks);
  if (causes.empty()) return;
  throw Error(ErrorCode::kIncompatibleCheckpoint,
              "the draft is not decoded as it was trained: " + join(causes, ", "),
              "the table says what differs; restore that, or convert or train again");
}

}  // namespace outrider::cli
