#include "architecture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "outrider/error.h"
#include "outrider/text.h"

namespace outrider::eagle {
namespace {

std::vector<std::string> known_keys() {
  std::vector<std::string> names;
  for (const auto& field : architecture_schema().fields()) names.push_back(field.name);
  return names;
}

Json defaults(const Numerics& numerics) {
  auto architecture = eagle3_architecture();
  if (!numerics.llama3_rope) return architecture;
  const auto old = eagle1_architecture();
  for (const char* key : {"rope_scaling", "rope_theta"}) architecture[key] = old.at(key);
  return architecture;
}

// Engines choose longrope's factors once and for all, and have no partial rotation in a draft.
bool serves_a_draft(const RopeConfig& rope) {
  return rope.type != "longrope" && rope.partial_rotary_factor == 1.0;
}

void take_sizes_of_base(Json& architecture, const ModelConfig& base, const Json& user,
                        std::vector<std::string>& notes) {
  const auto usual = eagle3_architecture();
  auto sizes = sizes_of(base);
  const auto is_chosen = [&](const std::string& key) {
    return user.contains(key) && user[key] != usual.at(key);
  };
  if (!serves_a_draft(base.rope) && !is_chosen("rope_scaling")) {
    sizes["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", base.rope.theta}};
    notes.push_back(fmt::format(
        "the base's rotary embedding (type '{}', on {} of a head) is none that engines compute in "
        "a draft: the draft's is the default one, with the same rope_theta of {}",
        printable(base.rope.type), base.rope.partial_rotary_factor, base.rope.theta));
  }
  for (const auto& [key, value] : sizes.items()) {
    if (!is_chosen(key)) architecture[key] = value;
  }
}

// A draft of another width can share neither the base's embedding nor its head.
void set_draft_width(Json& architecture, const BaseInfo& base, std::vector<std::string>& notes) {
  const auto width = architecture.value("draft_hidden_size", Json());
  if (width.is_null() || width == base.hidden_size) return;
  bool shared = false;
  for (const char* key : {"has_embeddings", "has_lm_head"}) {
    shared = shared || architecture.value(key, Json()) != true;
    architecture[key] = true;
  }
  if (shared) {
    notes.push_back(
        fmt::format("the draft is {} wide and the base {}: it gets an embedding and a "
                    "head of its own",
                    printable(width.dump()), base.hidden_size));
  }
}

void note_unknown_keys(const Json& user, std::vector<std::string>& notes) {
  const auto known = known_keys();
  for (const auto& [key, value] : user.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      notes.push_back(fmt::format("eagle_architecture_config.{} is not read; {}", printable(key),
                                  suggestion(key, known)));
    }
  }
}

void set_draft_vocabulary_size(Json& architecture, const BaseInfo& base) {
  if (!base.draft_vocabulary.defined()) {
    if (!architecture.contains("draft_vocab_size")) {
      architecture["draft_vocab_size"] = base.vocab_size;
    }
    return;
  }
  const int64_t size = base.draft_vocabulary.size(0);
  if (architecture.value("draft_vocab_size", size) != size) {
    throw Error(ErrorCode::kInvalidConfig,
                fmt::format("eagle_architecture_config.draft_vocab_size is {}, but the draft "
                            "vocabulary that was given has {} tokens",
                            architecture["draft_vocab_size"].dump(), size),
                "leave draft_vocab_size out");
  }
  architecture["draft_vocab_size"] = size;
}

std::vector<int64_t> default_aux_layer_ids(int64_t num_layers) {
  return {1, std::max<int64_t>(0, num_layers / 2 - 1), std::max<int64_t>(0, num_layers - 4)};
}

}  // namespace

Json sizes_of(const ModelConfig& layers) {
  Json rope = layers.rope.parameters;
  rope["rope_type"] = layers.rope.type;
  rope["rope_theta"] = layers.rope.theta;
  return {{"intermediate_size", layers.intermediate_size},
          {"num_attention_heads", layers.num_attention_heads},
          {"num_key_value_heads", layers.num_key_value_heads},
          {"head_dim", layers.head_dim},
          {"rms_norm_eps", layers.rms_norm_eps},
          {"rope_scaling", std::move(rope)},
          {"rope_theta", layers.rope.theta}};
}

std::string rope_type(const Json& architecture) {
  const auto& rope = architecture.at("rope_scaling");
  for (const char* key : {"rope_type", "type"}) {
    if (!rope.is_object() || !rope.contains(key) || !rope[key].is_string()) continue;
    if (rope[key] != "") return rope[key];
  }
  return "default";
}

RopeConfig rope_config(const Architecture& a) {
  return RopeConfig::from_json({{"rope_scaling", a.rope_scaling},
                                {"rope_theta", a.rope_theta},
                                {"max_position_embeddings", a.max_position_embeddings}},
                               "eagle_architecture_config");
}

Json resolve_architecture(const BaseInfo& base, const EagleConfig& config, const Numerics& numerics,
                          std::vector<std::string>& notes) {
  const auto& user = config.eagle_architecture_config;
  note_unknown_keys(user, notes);
  Json architecture = defaults(numerics);
  architecture.update(user);
  if (config.eagle_reuse_base_decoder && numerics.reuses_base_decoder) {
    take_sizes_of_base(architecture, base.config, user, notes);
  }
  architecture["hidden_size"] = base.hidden_size;
  architecture["vocab_size"] = base.vocab_size;
  architecture["max_position_embeddings"] = base.config.max_position_embeddings;
  set_draft_vocabulary_size(architecture, base);
  set_draft_width(architecture, base, notes);
  auto& rope = architecture["rope_scaling"];
  if (rope.is_null()) rope = Json::object();
  if (rope.is_object()) rope.emplace("rope_theta", architecture.value("rope_theta", Json(10000)));
  return architecture;
}

void check_export_rope(const Json& architecture, const Json& export_rope_scaling) {
  const auto type = rope_type(architecture);
  if (export_rope_scaling.empty() || type == "default") return;
  throw Error(ErrorCode::kInvalidConfig,
              fmt::format("eagle_export_rope_scaling replaces the rope scaling at export, but the "
                          "draft trains with rope type '{}'",
                          printable(type)),
              "set eagle_export_rope_scaling to {}, or train with the default type");
}

Architecture typed_architecture(const Json& architecture) {
  Json known = Json::object();
  for (const auto& name : known_keys()) {
    if (architecture.contains(name)) known[name] = architecture[name];
  }
  auto typed = architecture_schema().parse(known);
  if (typed.draft_hidden_size == 0) typed.draft_hidden_size = typed.hidden_size;
  if (typed.num_attention_heads % typed.num_key_value_heads != 0 || typed.head_dim % 2 != 0) {
    throw Error(
        ErrorCode::kInvalidConfig,
        fmt::format("eagle_architecture_config: num_attention_heads ({}) must be a multiple "
                    "of num_key_value_heads ({}), and head_dim ({}) even",
                    typed.num_attention_heads, typed.num_key_value_heads, typed.head_dim));
  }
  if (typed.draft_vocab_size > typed.vocab_size) {
    throw Error(
        ErrorCode::kInvalidConfig,
        fmt::format("eagle_architecture_config.draft_vocab_size is {}, more than the base's {}",
                    typed.draft_vocab_size, typed.vocab_size));
  }
  return typed;
}

std::vector<int64_t> aux_layer_ids(const Architecture& architecture, int64_t num_layers) {
  if (!architecture.use_aux_hidden_state) return {};
  const auto& chosen = architecture.eagle_aux_hidden_state_layer_ids;
  const auto ids = chosen.empty() ? default_aux_layer_ids(num_layers) : chosen;
  const std::set<int64_t> ordered(ids.begin(), ids.end());
  if (*ordered.begin() < 0 || *ordered.rbegin() >= num_layers) {
    throw Error(ErrorCode::kInvalidConfig,
                fmt::format("eagle reads the layers {}, but the base has {} layers (0 to {})", ids,
                            num_layers, num_layers - 1),
                "set eagle_architecture_config.eagle_aux_hidden_state_layer_ids");
  }
  return {ordered.begin(), ordered.end()};
}

}  // namespace outrider::eagle
