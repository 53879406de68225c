#include "foreign_rope.h"

#include <cmath>

#include "config/architecture.h"

namespace outrider::eagle {
namespace {

Json parameter(const RopeConfig& rope, const char* key, Json fallback) {
  const auto found = rope.parameters.find(key);
  return found == rope.parameters.end() || found->is_null() ? fallback : *found;
}

// arXiv 2309.00071, section 3.4.
double temperature(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double attention_factor(const RopeConfig& rope, double factor) {
  const double mscale = parameter(rope, "mscale", 0.0),
               all = parameter(rope, "mscale_all_dim", 0.0);
  const double implied = mscale != 0.0 && all != 0.0
                             ? temperature(factor, mscale) / temperature(factor, all)
                             : temperature(factor, 1.0);
  return parameter(rope, "attention_factor", implied);
}

void add_yarn(Json& meaning, const RopeConfig& rope) {
  const auto original =
      parameter(rope, "original_max_position_embeddings", rope.max_position_embeddings);
  const double implied = static_cast<double>(rope.max_position_embeddings) / original.get<double>();
  const auto factor = parameter(rope, "factor", implied);
  meaning["original_max_position_embeddings"] = original;
  meaning["factor"] = factor;
  meaning["beta_fast"] = parameter(rope, "beta_fast", 32.0);
  meaning["beta_slow"] = parameter(rope, "beta_slow", 1.0);
  const double attention = attention_factor(rope, factor.get<double>());
  if (std::abs(attention - temperature(factor.get<double>(), 1.0)) > 1e-9) {
    meaning["attention_factor"] = attention;
  }
  if (parameter(rope, "truncate", true) == false) meaning["truncate"] = false;
}

void add_longrope(Json& meaning, const RopeConfig& rope) {
  for (const char* key : {"short_factor", "long_factor", "original_max_position_embeddings"}) {
    meaning[key] = rope.parameters.at(key);
  }
  const double original = meaning["original_max_position_embeddings"].get<double>();
  meaning["factor"] =
      parameter(rope, "factor", static_cast<double>(rope.max_position_embeddings) / original);
  const auto attention = parameter(rope, "attention_factor", Json());
  if (!attention.is_null()) meaning["attention_factor"] = attention;
}

}  // namespace

Json rope_meaning(const RopeConfig& rope) {
  Json meaning = {{"rope_type", rope.type}, {"rope_theta", rope.theta}};
  if (rope.type == "linear" || rope.type == "dynamic" || rope.type == "llama3") {
    meaning["factor"] = rope.parameters.at("factor");
  }
  if (rope.type == "dynamic") meaning["max_position_embeddings"] = rope.max_position_embeddings;
  if (rope.type == "llama3") {
    for (const char* key :
         {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      meaning[key] = rope.parameters.at(key);
    }
  }
  if (rope.type == "yarn") add_yarn(meaning, rope);
  if (rope.type == "longrope") add_longrope(meaning, rope);
  return meaning;
}

bool has_unusual_yarn(const Json& meaning) {
  return meaning.contains("attention_factor") || meaning.contains("truncate");
}

Json rope_keys(const Json& meaning) {
  Json parameters = meaning;
  parameters.erase("max_position_embeddings");
  if (meaning.at("rope_type") == "yarn") {
    parameters["mscale"] = 1.0;  // the paper's temperature, in words that every reader knows
    parameters["mscale_all_dim"] = 0.0;
  }
  Json scaling = parameters;
  scaling.erase("rope_theta");
  return {{"rope_theta", meaning.at("rope_theta")},
          {"rope_scaling", meaning.at("rope_type") == "default" ? Json() : scaling},
          {"rope_parameters", parameters}};
}

Json served_rope_scaling(const Json& config) {
  const auto& architecture = config.at("eagle_architecture_config");
  const auto& replacement = config.at("eagle_export_rope_scaling");
  return rope_type(architecture) == "default" && !replacement.empty()
             ? replacement
             : architecture.at("rope_scaling");
}

RopeConfig served_rope(const Json& config) {
  auto architecture = typed_architecture(config.at("eagle_architecture_config"));
  architecture.rope_scaling = served_rope_scaling(config);
  return rope_config(architecture);
}

}  // namespace outrider::eagle
