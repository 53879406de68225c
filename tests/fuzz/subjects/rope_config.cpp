#include "outrider/config/rope_config.h"

#include <cmath>

#include "outrider/files/json_file.h"
#include "subject.h"

namespace outrider::fuzz {
namespace {

std::vector<std::string> rope_config_seeds() {
  return {R"({"rope_theta":10000.0,"rope_scaling":null,"max_position_embeddings":2048})",
          R"({"rope_theta":5e5,"max_position_embeddings":131072,"rope_scaling":{"factor":8.0,)"
          R"("high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,)"
          R"("rope_type":"llama3"}})",
          R"({"rope_parameters":{"rope_type":"yarn","rope_theta":1e6,"factor":4.0,"beta_fast":32,)"
          R"("original_max_position_embeddings":4096},"max_position_embeddings":16384})",
          R"({"rope_scaling":{"type":"longrope","short_factor":[1.0,1.1],"long_factor":[1.0,4.0]},)"
          R"("partial_rotary_factor":0.5,"original_max_position_embeddings":4096,"head_dim":8})"};
}

void read_rope_config(const std::string& bytes) {
  const auto json = parse_json(bytes, "fuzzed", {.bytes = 1u << 20, .depth = 32});
  const auto rope = RopeConfig::from_json(json, "fuzzed", true);
  require(std::isfinite(rope.theta) && rope.theta > 0, "a base of angles is a positive number");
  require(rope.max_position_embeddings > 0, "there are positions");
  require(rope.partial_rotary_factor > 0 && rope.partial_rotary_factor <= 1,
          "a part of a head is rotated");
  require(rope.parameters.is_object(), "parameters have names");
}

}  // namespace

const Subject kRopeConfig{"rope_config", rope_config_seeds, read_rope_config,
                          "{}[]\",:01-.e\\u \"rope_type\"\"factor\"\"rope_theta\"null"};

}  // namespace outrider::fuzz
