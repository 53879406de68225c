#include "cli/model_options.h"

#include <fmt/format.h>

#include "cli/common.h"

namespace outrider::cli {

void add_model_options(CLI::App& verb, ModelOptions& options) {
  verb.add_option("--device", options.device, "cpu, cuda or cuda:N")->capture_default_str();
  verb.add_option("--dtype", options.dtype,
                  "Compute and save in float32, bfloat16, float16 or float64 (default: as stored; "
                  "on a CPU that is slow in bfloat16, computed in float32 and saved as stored)");
}

LoadOptions with_options(LoadOptions load, const ModelOptions& options) {
  load.device = parse_device(options.device);
  if (!options.dtype.empty()) load.dtype = parse_dtype(options.dtype);
  return load;
}

std::shared_ptr<CausalLM> load_to_run(const std::filesystem::path& folder, LoadOptions load) {
  load.for_computing = true;
  load.on_note = show_note;
  auto model = from_pretrained(folder, load);
  if (model->dtype() != model->stored_dtype()) {
    note(
        fmt::format("note: this CPU is slow in {}: computing in {}, saving in {} (--dtype decides)",
                    dtype_name(model->stored_dtype()), dtype_name(model->dtype()),
                    dtype_name(model->stored_dtype())));
  }
  return model;
}

}  // namespace outrider::cli
