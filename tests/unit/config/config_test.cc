#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "config/fields.h"
#include "config/load.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::string write_file(const std::string& name, const std::string& text) {
  const auto path = std::filesystem::temp_directory_path() / ("sluice_config_" + name);
  std::ofstream(path) << text;
  return path.string();
}

std::string error_of(const ConfigSources& sources) {
  const auto config = load_config(sources);
  return config.ok() ? "no error" : std::string(message_of(config.status()));
}

TEST(Config, LaterSourcesWin) {
  const std::string file = write_file("order.toml",
                                      "[server]\nhttp_port = 1001\ngrpc_port = 1002\n"
                                      "[scheduler]\nmax_seqs = 7\n[cache]\nbytes = \"2MiB\"\n");
  const auto config = load_config(
      {.file = file,
       .environment = {"HOME=/", "SLUICE_SERVER_HTTP_PORT=2001", "SLUICE_SERVER_GRPC_PORT=2002"},
       .flags = {{"server.http_port", "3001"}}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->server.http_port, 3001);
  EXPECT_EQ(config->server.grpc_port, 2002);
  EXPECT_EQ(config->scheduler.max_seqs, 7);
  EXPECT_EQ(config->cache.bytes, 2 << 20);
  EXPECT_EQ(config->server.host, "127.0.0.1");
}

TEST(Config, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(error_of({.file = write_file("a.toml", "[server]\nhttp_prot = 1\n")}),
              HasSubstr("line 2: unknown key 'server.http_prot'"));
  EXPECT_THAT(error_of({.file = write_file("b.toml", "port = 1\n")}), HasSubstr("'port'"));
  EXPECT_THAT(error_of({.file = write_file("c.toml", "[server\n")}), HasSubstr("line 1"));
  EXPECT_THAT(error_of({.file = write_file("d.toml", "[server.http_port]\nx = 1\n")}),
              HasSubstr("must be"));
  EXPECT_THAT(error_of({.file = write_file("e.toml", "[log]\nlevel = [1]\n")}),
              HasSubstr("must be a string"));
  EXPECT_THAT(error_of({.file = "/nonexistent.toml"}), HasSubstr("no such file"));
  EXPECT_THAT(error_of({.environment = {"SLUICE_SERVER_PORT=1"}}),
              HasSubstr("SLUICE_SERVER_PORT: no such setting"));
  EXPECT_THAT(error_of({.flags = {{"server.nope", "1"}}}), HasSubstr("--server.nope"));
}

TEST(Config, NamesTheKnobAndTheLimit) {
  const auto flag = [](const char* name, const char* value) {
    return error_of({.flags = {{name, value}}});
  };
  EXPECT_THAT(flag("server.http_port", "70000"), HasSubstr("server.http_port: 70000"));
  EXPECT_THAT(flag("server.http_port", "70000"), HasSubstr("0 to 65535"));
  EXPECT_THAT(flag("server.http_port", "80x"), HasSubstr("not a whole number"));
  EXPECT_THAT(flag("server.http_port", ""), HasSubstr("not a whole number"));
  EXPECT_THAT(flag("server.http_port", "99999999999999999999"), HasSubstr("not a whole number"));
  EXPECT_THAT(flag("device.kind", "tpu"), HasSubstr("auto, cpu"));
  EXPECT_THAT(flag("cache.prefix_caching", "maybe"), HasSubstr("true or false"));
  EXPECT_THAT(flag("cache.memory_fraction", "nan"), HasSubstr("out of range"));
  EXPECT_THAT(flag("cache.memory_fraction", "1.5"), HasSubstr("out of range"));
  EXPECT_THAT(flag("cache.bytes", "12 parsecs"), HasSubstr("size such as"));
  EXPECT_THAT(flag("cache.bytes", "99999999999GiB"), HasSubstr("size such as"));
}

TEST(Config, SizesHaveUnits) {
  const auto bytes = [](const char* text) {
    const auto config = load_config({.flags = {{"cache.bytes", text}}});
    return config.ok() ? config->cache.bytes : -1;
  };
  EXPECT_EQ(bytes("4096"), 4096);
  EXPECT_EQ(bytes("4096B"), 4096);
  EXPECT_EQ(bytes("3k"), 3 << 10);
  EXPECT_EQ(bytes("3 MB"), 3000000);
  EXPECT_EQ(bytes("2GiB"), int64_t(2) << 30);
  EXPECT_EQ(bytes("-1"), -1);
}

TEST(Config, PrintedConfigReadsBack) {
  Config config;
  config.model.path = "dir with \"quotes\" and \\ and \n";
  config.cache.memory_fraction = 0.3;
  config.cache.prefix_caching = false;
  config.server.http_port = 1;
  const std::string text = print_config(config);
  const auto again = load_config({.file = write_file("printed.toml", text)});
  ASSERT_TRUE(again.ok()) << again.status() << text;
  EXPECT_EQ(print_config(*again), text);
  EXPECT_EQ(again->model.path, config.model.path);
}

TEST(Config, OnlyLiveKnobsAreTakenOver) {
  Config running, fresh;
  fresh.log.level = "debug";
  fresh.scheduler.max_queue = 7;
  fresh.server.http_port = 9;
  const std::vector<KnobChange> changes = take_live_knobs(running, fresh);
  ASSERT_EQ(changes.size(), 3u);
  EXPECT_EQ(changes[0].name, "scheduler.max_queue");
  EXPECT_EQ(changes[0].from, "1024");
  EXPECT_EQ(changes[0].to, "7");
  EXPECT_TRUE(changes[0].live);
  EXPECT_EQ(changes[1].name, "server.http_port");
  EXPECT_FALSE(changes[1].live);
  EXPECT_EQ(running.log.level, "debug");
  EXPECT_EQ(running.scheduler.max_queue, 7);
  EXPECT_EQ(running.server.http_port, 8000);
  EXPECT_EQ(take_live_knobs(running, fresh).size(), 1u);  // still to come, with a restart
}

TEST(Config, EveryFieldIsListedOnce) {
  Config config;
  std::set<std::string_view> names, flags;
  for (const Field& f : fields_of(config)) {
    EXPECT_TRUE(names.insert(f.name).second) << f.name;
    if (!f.flag.empty()) {
      EXPECT_TRUE(flags.insert(f.flag).second) << f.flag;
    }
    EXPECT_FALSE(f.help.empty()) << f.name;
    EXPECT_TRUE(set_field(f, text_of(f)).ok()) << f.name;  // the default is in range
  }
}

}  // namespace
}  // namespace sluice
