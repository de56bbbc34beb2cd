#include <gtest/gtest.h>

#include <fmt/ranges.h>

#include <algorithm>

#include "engine/model_config.h"
#include "tests/unit/engine/model_files.h"

namespace sluice {
namespace {

// published_configs.json: keys and values that models come with, a line each; what is warned of;
// and of the result what a family is most easily wrong about.
TEST(PublishedConfigs, AreReadAsTheyAre) {
  const Json models = Json::parse(
      read_text_file(SLUICE_SOURCE_DIR "/tests/unit/engine/published_configs.json", 1 << 20)
          .value());
  ASSERT_GT(models.size(), 50u);
  for (const Json& model : models) {
    SCOPED_TRACE(model["name"].get<std::string>());
    const TempDir dir;
    write_file(dir.path() / "config.json", model["config"].dump());
    write_file(dir.path() / "generation_config.json", R"({"eos_token_id": 0})");
    const auto config = read_model_config(dir.path());
    if (!config.ok()) {
      ADD_FAILURE() << config.status();
      continue;
    }
    EXPECT_EQ(config->head_dim, model["head_dim"]);
    EXPECT_EQ(config->max_positions, model["positions"]);
    EXPECT_EQ(std::count_if(config->layers.begin(), config->layers.end(),
                            [](const LayerConfig& layer) { return layer.window > 0; }),
              model["windows"]);
    EXPECT_EQ(fmt::format("{}", fmt::join(config->warnings, "; ")), model["warning"]);
  }
}

}  // namespace
}  // namespace sluice
