#include "outrider/model/sliding_window.h"

#include <fmt/format.h>

#include <string>

#include "config/config_reader.h"
#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider {
namespace {

constexpr int64_t kQwenWindowIfAbsent = 4096, kQwenFirstLayerIfAbsent = 28;

std::optional<int64_t> window_of(const ModelConfig& config, std::optional<int64_t> if_absent,
                                 ConfigReader& reader) {
  if (!config.raw.contains("sliding_window")) return if_absent;
  if (!reader.has("sliding_window")) return {};
  return reader.integer("sliding_window");
}

[[noreturn]] void fail_layer_type(const ModelConfig& config, const Json& type) {
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: 'layer_types' has {}, supported are \"full_attention\" and "
                          "\"sliding_attention\"",
                          config.architecture, printable(type.dump(), 60)));
}

// Which layers have a window; nothing where the config has no list.
std::optional<std::vector<bool>> listed_layers(const ModelConfig& config, ConfigReader& reader) {
  if (!reader.has("layer_types")) return {};
  const auto& types = config.raw["layer_types"];
  if (!types.is_array() || types.size() != static_cast<size_t>(config.num_hidden_layers)) {
    reader.problem(fmt::format("'layer_types' is no list of {} layer types, one for each layer",
                               config.num_hidden_layers));
    return {};
  }
  std::vector<bool> slides;
  for (const auto& type : types) {
    if (type != "full_attention" && type != "sliding_attention") fail_layer_type(config, type);
    slides.push_back(type == "sliding_attention");
  }
  return slides;
}

void check_agreement(bool has_window, const std::optional<std::vector<bool>>& listed,
                     ConfigReader& reader) {
  const auto* told = has_window ? "set" : "not set";
  if (reader.boolean("use_sliding_window", has_window) != has_window) {
    reader.problem(
        fmt::format("'use_sliding_window' is {}, but 'sliding_window' is {}", !has_window, told));
  }
  if (listed && *listed != std::vector<bool>(listed->size(), has_window)) {
    reader.problem(
        fmt::format("'layer_types' differ from 'sliding_window', which is {} and holds "
                    "for every layer of this family",
                    told));
  }
}

std::vector<bool> layers_from(int64_t first, int64_t count) {
  std::vector<bool> slides;
  for (int64_t i = 0; i < count; ++i) slides.push_back(i >= first);
  return slides;
}

}  // namespace

std::optional<int64_t> window_of_all_layers(const ModelConfig& config,
                                            std::optional<int64_t> if_absent) {
  ConfigReader reader(config.raw, config.architecture);
  const auto window = window_of(config, if_absent, reader);
  check_agreement(window.has_value(), listed_layers(config, reader), reader);
  reader.finish();
  return window;
}

std::vector<std::optional<int64_t>> windows_by_layer(const ModelConfig& config) {
  ConfigReader reader(config.raw, config.architecture);
  std::optional<int64_t> window;
  if (reader.boolean("use_sliding_window", false)) {
    window = window_of(config, kQwenWindowIfAbsent, reader);
  }
  const int64_t count = config.num_hidden_layers;
  const int64_t first = reader.integer("max_window_layers", kQwenFirstLayerIfAbsent, /*minimum=*/0);
  auto slides = listed_layers(config, reader);
  if (!slides) slides = layers_from(window ? first : count, count);
  std::vector<std::optional<int64_t>> windows;
  for (const bool slide : *slides) windows.push_back(slide ? window : std::nullopt);
  if (!window && *slides != std::vector<bool>(slides->size(), false)) {
    reader.problem(
        "'layer_types' has sliding layers, but 'use_sliding_window' and "
        "'sliding_window' give no window");
  }
  reader.finish();
  return windows;
}

}  // namespace outrider
