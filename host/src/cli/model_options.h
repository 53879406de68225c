#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "outrider/host/checkpoint.h"

namespace outrider::cli {

/// Where and in which type a verb runs a model.
struct ModelOptions {
  std::string device = "cpu", dtype;
};

/// --device and --dtype.
void add_model_options(CLI::App& verb, ModelOptions& options);

/// `load` with what the options say of device and type. Throws as parse_device(), parse_dtype().
LoadOptions with_options(LoadOptions load, const ModelOptions& options);

/// from_pretrained() for a verb that runs the model; says on stderr where it computes in another
/// type than the stored one.
std::shared_ptr<CausalLM> load_to_run(const std::filesystem::path& folder, LoadOptions load);

}  // namespace outrider::cli
