#include <map>
#include <string>

#include "outrider/error.h"
#include "support.h"

namespace hydra::testing {
namespace {

using Sizes = std::vector<int64_t>;

std::map<std::string, Sizes> shapes(const outrider::Draft& draft) {
  std::map<std::string, Sizes> result;
  for (const auto& item : draft.named_parameters()) result[item.key()] = item.value().sizes().vec();
  return result;
}

TEST_CASE("parameters have the original's names and shapes") {
  const auto conversion =
      HydraMode().convert(base_info(), {{"hydra_num_heads", 2}, {"hydra_num_layers", 2}});
  CHECK(conversion.attribute == "hydra_head");
  const Sizes matrix{kHidden, kHidden}, bias{kHidden};
  std::map<std::string, Sizes> expected;
  for (int64_t i = 0; i < 2; ++i) {
    const auto head = std::to_string(i), mlp = "hydra_mlp." + head;
    for (const char* part : {".0.linear.", ".0.res_connection."}) {
      expected[mlp + part + "weight"] = {kHidden, (i + 2) * kHidden};
      expected[mlp + part + "bias"] = bias;
    }
    expected[mlp + ".1.linear.weight"] = matrix;
    expected[mlp + ".1.linear.bias"] = bias;
    expected["hydra_lm_head." + head + ".weight"] = {kVocabulary, kHidden};
    expected["hydra_lm_head." + head + ".bias"] = {kVocabulary};
  }
  CHECK((shapes(*conversion.draft) == expected));
  for (const auto& item : conversion.draft->named_parameters()) {
    const bool starts_at_zero = item.key().ends_with(".linear.weight");
    CHECK((item.value().abs().max().item<double>() == 0.0) == starts_at_zero);
  }
}

TEST_CASE("presets convert, and the base is frozen as configured") {
  const HydraMode mode;
  REQUIRE(mode.presets().size() == 2);
  const auto teacher = mode.convert(base_info(), mode.presets()[1].overrides);
  CHECK(teacher.config["hydra_num_layers"] == 4);
  CHECK(teacher.config["hydra_loss"] == "teacher");
  CHECK((teacher.base_edits ==
         std::vector<outrider::BaseEdit>{outrider::BaseEdit::kFreezeParameters}));
  CHECK(mode.convert(base_info(), {{"hydra_freeze_base_model", false}}).base_edits.empty());
}

TEST_CASE("configs outside of what can be built are refused, all problems at once") {
  try {
    HydraMode().config_schema().resolve(
        {{"hydra_num_heads", 0}, {"hydra_loss", "labels"}, {"hydra_layers", 1}});
    FAIL("nothing was thrown");
  } catch (const outrider::Error& error) {
    const std::string text = error.what();
    for (const char* part : {"hydra_num_heads", "hydra_loss", "teacher", "hydra_layers"}) {
      CHECK_MESSAGE(text.find(part) != std::string::npos, text);
    }
  }
}

}  // namespace
}  // namespace hydra::testing
