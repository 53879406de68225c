#include "outrider/config/struct_schema.h"
#include "support.h"

namespace outrider {
namespace {

using test::check_error;

struct Config {
  bool enabled = true;
  int64_t heads = 2;
  double rate = 0.5;
  std::string kind = "a";
  std::vector<int64_t> layers = {1, 2};
  Json extra = Json::object();
  std::optional<int64_t> window;
  std::optional<std::vector<std::string>> targets;
  std::vector<Json> anything;
};

StructSchema<Config> make_schema() {
  StructSchema<Config> schema("Config", 2);
  schema.field("enabled", &Config::enabled, "Whether.")
      .field("heads", &Config::heads, "How many.", {.minimum = 1, .maximum = 8})
      .field("rate", &Config::rate, "How fast.", {.minimum = 0.0})
      .field("kind", &Config::kind, "Which.", {.choices = {"a", "b"}})
      .field("layers", &Config::layers, "Where.")
      .field("extra", &Config::extra, "More.", {.extension = true})
      .field("window", &Config::window, "How wide.", {.minimum = 4})
      .field("targets", &Config::targets, "What.")
      .field("anything", &Config::anything, "Whatever.");
  schema.check([](const Config& config) -> std::optional<ConfigProblem> {
    if (!config.window || *config.window >= config.heads) return std::nullopt;
    return ConfigProblem{"/window", "must be at least /heads"};
  });
  return schema;
}

TEST_CASE("an empty config gives the struct's initialisers") {
  const Config config = make_schema().parse(Json::object());
  CHECK(config.enabled);
  CHECK(config.heads == 2);
  CHECK(config.rate == 0.5);
  CHECK(config.kind == "a");
  CHECK(config.layers == std::vector<int64_t>{1, 2});
  CHECK(config.extra == Json::object());
  CHECK_FALSE(config.window.has_value());
  CHECK_FALSE(config.targets.has_value());
}

TEST_CASE("members are filled from converted values") {
  const Config config = make_schema().parse({{"enabled", "off"},
                                             {"heads", "7"},
                                             {"rate", 2},
                                             {"kind", "b"},
                                             {"layers", {"3", 4.0}},
                                             {"extra", {{"k", nullptr}}},
                                             {"window", 8.0},
                                             {"targets", {"q", "v"}},
                                             {"anything", {1, nullptr, "x"}}});
  CHECK_FALSE(config.enabled);
  CHECK(config.heads == 7);
  CHECK(config.rate == 2.0);
  CHECK(config.kind == "b");
  CHECK(config.layers == std::vector<int64_t>{3, 4});
  CHECK(config.extra.dump() == R"({"k":null})");
  CHECK(config.window == 8);
  CHECK(config.targets == std::vector<std::string>{"q", "v"});
  CHECK(config.anything == std::vector<Json>{1, nullptr, "x"});
}

TEST_CASE("dump and parse are inverse, and keep integers and floats apart") {
  const auto schema = make_schema();
  Config config;
  config.rate = 3.0;
  config.targets = {"q"};
  const Json json = schema.dump(config);
  CHECK(
      json.dump() ==
      R"({"anything":[],"enabled":true,"extra":{},"heads":2,"kind":"a","layers":[1,2],"rate":3.0,)"
      R"("targets":["q"],"window":null})");
  CHECK(schema.dump(schema.parse(json)) == json);
  CHECK(schema.dump(Config{}) == schema.resolve(Json::object()));
}

TEST_CASE("fields know the types, bounds and choices of their members") {
  const auto schema = make_schema();
  CHECK(schema.version() == 2);
  REQUIRE(schema.fields().size() == 9);
  const auto& heads = schema.fields()[1];
  CHECK(heads.name == "heads");
  CHECK(heads.description == "How many.");
  CHECK(heads.type == FieldType::kInt);
  CHECK(heads.minimum == 1.0);
  CHECK(heads.maximum == 8.0);
  CHECK(schema.fields()[3].choices == std::vector<Json>{"a", "b"});
  CHECK(schema.fields()[4].element == FieldType::kInt);
  CHECK(schema.fields()[5].type == FieldType::kObject);
  CHECK(schema.fields()[5].extension);
  const auto& window = schema.fields()[6];
  CHECK(window.nullable);
  CHECK(window.type == FieldType::kInt);
  CHECK(window.minimum == 4.0);
  CHECK(schema.fields()[7].type == FieldType::kList);
  CHECK(schema.fields()[7].element == FieldType::kString);
  CHECK(schema.fields()[8].type == FieldType::kList);
  CHECK_FALSE(schema.fields()[8].element.has_value());
}

TEST_CASE("bounds of optional members and elements of lists are enforced") {
  const auto message = check_error(ErrorCode::kInvalidConfig, "Config is not valid", [] {
    make_schema().parse({{"window", 3}, {"layers", {1.5}}, {"targets", {1}}});
  });
  CHECK(message ==
        "Config is not valid:\n"
        "  /layers: got [1.5] with 1.5 at index 0, expected a list of 64-bit integers\n"
        "  /window: got 3, expected a 64-bit integer of at least 4 or null\n"
        "  /targets: got [1] with 1 at index 0, expected a list of strings or null");
}

TEST_CASE("rules between fields are checked together with unknown keys") {
  const auto message =
      check_error(ErrorCode::kInvalidConfig, "/window: must be at least /heads", [] {
        make_schema().parse({{"window", 4}, {"heads", 8}, {"head", 1}});
      });
  CHECK(message.find("/head: unknown key; did you mean 'heads'?") != message.npos);
}

TEST_CASE("rules between fields wait until every field has a value") {
  const auto message = check_error(ErrorCode::kInvalidConfig, "/rate", [] {
    make_schema().parse({{"window", 4}, {"heads", 8}, {"rate", "x"}});
  });
  CHECK(message.find("must be at least") == message.npos);
}

}  // namespace
}  // namespace outrider
