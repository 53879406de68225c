#include "cli/app.h"
#include "cli/data_verbs.h"

namespace outrider::cli {

void add_data_verb(CLI::App& app, const GlobalOptions& options) {
  auto* data = add_verb(app, "data", "Training data: conversations to token shards",
                        "outrider data prepare chats.jsonl --model SmolLM2 --out shards");
  data->require_subcommand(1);
  add_data_regenerate_verb(*data, options);
  add_data_prepare_verb(*data, options);
  add_data_inspect_verb(*data, options);
  add_data_calibrate_verb(*data, options);
  add_data_coverage_verb(*data, options);
  add_data_hidden_states_verb(*data, options);
}

}  // namespace outrider::cli
