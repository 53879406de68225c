#include "outrider/checkpoint/metadata.h"
#include "support.h"

namespace outrider {
namespace {

using test::check_error;
using test::get;
using test::Names;
using test::put;
using test::TemporaryFolder;

Json valid_state() {
  return R"({
    "format_version": 1,
    "written_by": "outrider 0.1.0",
    "base_model": {"architecture": "LlamaForCausalLM", "hidden_size": 576},
    "modes": [
      {"mode": "eagle",
       "plugin": {"name": "eagle", "version": "0.1.0", "range": "^0.1", "sha256": ""},
       "config_version": 1,
       "config": {"eagle_ttt_steps": 3, "eagle_loss_decay_factor": 1.0},
       "metadata": {"aux_layer_ids": [1, 14, 26], "reference_numerics": null}}
    ]
  })"_json;
}

std::string refusal(const Json& json, std::string_view part) {
  return check_error(ErrorCode::kInvalidFile, part,
                     [&] { CheckpointMetadata::from_json(json, "state.json"); });
}

TEST_CASE("a state is read into its parts and written as it was") {
  const auto state = CheckpointMetadata::from_json(valid_state(), "state.json");
  CHECK(state.format_version == 1);
  CHECK(state.written_by == "outrider 0.1.0");
  CHECK(state.base_model["hidden_size"] == 576);
  REQUIRE(state.modes.size() == 1);
  const auto& mode = state.modes[0];
  CHECK(mode.mode == "eagle");
  CHECK(mode.plugin.name == "eagle");
  CHECK(mode.plugin.version == "0.1.0");
  CHECK(mode.plugin.range == "^0.1");
  CHECK(mode.plugin.sha256.empty());
  CHECK(mode.config_version == 1);
  CHECK(mode.config["eagle_loss_decay_factor"].is_number_float());
  CHECK(mode.metadata["aux_layer_ids"] == Json::array({1, 14, 26}));
  CHECK(state.to_json().dump() == valid_state().dump());
}

TEST_CASE("a state goes through its file, in the order of conversion") {
  const TemporaryFolder folder;
  auto state = CheckpointMetadata::from_json(valid_state(), "state.json");
  state.modes.push_back(state.modes[0]);
  state.modes[1].mode = "a_medusa2";
  state.modes[1].plugin.sha256 = std::string(64, 'a');
  state.write(folder.path());
  CHECK(folder.names() == Names{"outrider_state.json"});
  const auto read = CheckpointMetadata::read(folder.path());
  CHECK(read.to_json().dump() == state.to_json().dump());
  CHECK(read.modes[1].mode == "a_medusa2");
}

TEST_CASE("a state without modes is valid") {
  auto json = valid_state();
  json["modes"] = Json::array();
  CHECK(CheckpointMetadata::from_json(json, "state.json").modes.empty());
}

TEST_CASE("every problem of a state is named at once") {
  const Json json = R"({
    "format_version": 1.0,
    "base_model": [],
    "mode": 1,
    "modes": [
      7,
      {"mode": "Eagle",
       "plugin": {"name": "../x", "version": "1", "range": "^x", "sha256": "AB", "path": "/x"},
       "config_version": 0, "config": null, "metadata": {}},
      {"mode": "m", "plugin": "eagle", "config_version": 1, "config": {}}
    ]
  })"_json;
  CHECK(refusal(json, "state.json") ==
        "'state.json' is not a valid Outrider state:\n"
        "  /format_version must be of type integer of at least 1\n"
        "  /written_by is missing\n"
        "  /base_model must be of type object\n"
        "  /modes/0 must be an object\n"
        "  /modes/1/mode is 'Eagle', but must be a name: [a-z][a-z0-9_]{0,62}\n"
        "  /modes/1/plugin/name is '../x', but must be a name: [a-z][a-z0-9_]{0,62}\n"
        "  /modes/1/plugin/version is '1', but must be a version such as 1.2.3\n"
        "  /modes/1/plugin/range is '^x', but must be a version range such as ^1.2\n"
        "  /modes/1/plugin/sha256 is 'AB', but must be 64 lower-case hexadecimal digits, or empty\n"
        "  /modes/1/plugin/path is an unknown key; known are: name, version, range, sha256\n"
        "  /modes/1/config_version must be of type integer of at least 1\n"
        "  /modes/1/config must be of type object\n"
        "  /modes/2/plugin must be of type object\n"
        "  /modes/2/metadata is missing\n"
        "  /mode is an unknown key; did you mean 'modes'?");
}

TEST_CASE("every key of a state is required") {
  for (const auto& [pointer, name] :
       std::vector<std::pair<std::string, std::string>>{{"", "format_version"},
                                                        {"", "written_by"},
                                                        {"", "base_model"},
                                                        {"", "modes"},
                                                        {"/modes/0", "mode"},
                                                        {"/modes/0", "plugin"},
                                                        {"/modes/0", "config_version"},
                                                        {"/modes/0", "config"},
                                                        {"/modes/0", "metadata"},
                                                        {"/modes/0/plugin", "name"},
                                                        {"/modes/0/plugin", "version"},
                                                        {"/modes/0/plugin", "range"},
                                                        {"/modes/0/plugin", "sha256"}}) {
    auto json = valid_state();
    json[Json::json_pointer(pointer)].erase(name);
    CHECK(refusal(json, "") ==
          "'state.json' is not a valid Outrider state:\n  " + pointer + "/" + name + " is missing");
  }
}

TEST_CASE("names and hashes are checked to their limits") {
  auto json = valid_state();
  auto& plugin = json["modes"][0]["plugin"];
  plugin["name"] = "a" + std::string(62, '_');
  plugin["sha256"] = std::string(64, '0');
  CHECK(CheckpointMetadata::from_json(json, "x").modes[0].plugin.name.size() == 63);
  for (const auto& name : Names{"", "a" + std::string(63, '_'), "1a", "_a", "a-b", "a\n"}) {
    plugin["name"] = name;
    refusal(json, "/modes/0/plugin/name is '");
  }
  plugin["name"] = "a";
  for (const auto& hash : {std::string(63, '0'), std::string(65, '0'), std::string(64, 'g')}) {
    plugin["sha256"] = hash;
    refusal(json, "/modes/0/plugin/sha256 is '" + hash);
  }
}

TEST_CASE("what is no object is refused") {
  for (const Json& json : {Json(), Json::array(), Json("x")}) {
    CHECK(refusal(json, "") ==
          "'state.json' is not a valid Outrider state:\n  the file must be an "
          "object");
  }
}

TEST_CASE("a newer format is told apart from a damaged file") {
  auto json = valid_state();
  json["format_version"] = 2;
  json["news"] = true;
  check_error(ErrorCode::kIncompatibleCheckpoint,
              "has format_version 2; this build (0.1.0) reads "
              "versions up to 1",
              [&] { CheckpointMetadata::from_json(json, "state.json"); });
  json["format_version"] = 18446744073709551615u;
  check_error(ErrorCode::kIncompatibleCheckpoint, "18446744073709551615",
              [&] { CheckpointMetadata::from_json(json, "state.json"); });
  for (const Json& version : {Json(0), Json(-1), Json("1"), Json(2.0)}) {
    json["format_version"] = version;
    refusal(json, "/format_version must be");
  }
}

TEST_CASE("modes are limited in number, and problems in what is shown") {
  auto json = valid_state();
  json["modes"] = Json(64, valid_state()["modes"][0]);
  CHECK(CheckpointMetadata::from_json(json, "x").modes.size() == 64);
  json["modes"] = Json(65, valid_state()["modes"][0]);
  refusal(json, "/modes has 65 entries; at most 64 are accepted");
  json["modes"] = Json(64, Json(1));
  CHECK(refusal(json, "/modes/19 must be an object").ends_with("\n  and 44 more"));
}

TEST_CASE("files are read within limits") {
  const TemporaryFolder folder;
  check_error(ErrorCode::kFileNotFound, "/outrider_state.json' does not exist",
              [&] { CheckpointMetadata::read(folder.path()); });
  const auto path = folder / CheckpointMetadata::kFileName;
  put(path, std::string((1 << 20) + 1, ' '));
  check_error(ErrorCode::kInvalidFile, "larger than the 1048576 bytes",
              [&] { CheckpointMetadata::read(folder.path()); });
  put(path, std::string(33, '['));
  check_error(ErrorCode::kInvalidFile, "nested deeper than the 32 levels",
              [&] { CheckpointMetadata::read(folder.path()); });
  put(path, R"({"format_version":1,"format_version":1})");
  check_error(ErrorCode::kInvalidFile, "'format_version' occurs twice",
              [&] { CheckpointMetadata::read(folder.path()); });
}

TEST_CASE("a state that could not be read back is not written") {
  const TemporaryFolder folder;
  auto state = CheckpointMetadata::from_json(valid_state(), "x");
  state.write(folder.path());
  const auto before = get(folder / CheckpointMetadata::kFileName);
  state.modes[0].metadata["blob"] = std::string(1 << 20, 'x');
  check_error(ErrorCode::kInvalidFile, "larger than", [&] { state.write(folder.path()); });
  state = CheckpointMetadata::from_json(valid_state(), "x");
  state.modes[0].plugin.version = "one";
  check_error(ErrorCode::kInvalidFile, "/modes/0/plugin/version is 'one'",
              [&] { state.write(folder.path()); });
  CHECK(get(folder / CheckpointMetadata::kFileName) == before);
  CHECK(folder.names() == Names{CheckpointMetadata::kFileName});
}

}  // namespace
}  // namespace outrider
