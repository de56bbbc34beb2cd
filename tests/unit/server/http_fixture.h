#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "server/http_server.h"
#include "tests/unit/server/http_client.h"
#include "tests/unit/server/world.h"

namespace sluice {

using namespace std::chrono_literals;
using Json = nlohmann::json;

// A daemon without a model, listening on loopback.
class HttpServerTest : public ::testing::Test {
 protected:
  void start(WorldOptions options = {}) {
    world_ = std::make_unique<World>(options);
    server_ = std::make_unique<HttpServer>(world_->config.server, *world_->frontend);
    const absl::Status status = server_->start(any_port());
    ASSERT_TRUE(status.ok()) << message_of(status);
    world_->start();
  }
  void TearDown() override {
    if (server_) server_->stop();
    if (world_) world_->engine.reset();
  }

  static Listener any_port() { return Listener::bind("127.0.0.1", 0, "server.http_port").value(); }
  int port() const { return server_->port(); }
  // Every test ends within ctest's limit or has failed: no deadline of its own.
  template <class Condition>
  void wait_for(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + 60s;  // of a test that would hang
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "waited too long";
      std::this_thread::sleep_for(1ms);
    }
  }
  void wait_until_free() {
    wait_for([this] {
      const Scheduler::Stats stats = world_->engine->stats();
      return stats.running == 0 && stats.waiting == 0 && stats.used_blocks == 0 &&
             world_->hub.num_open() == 0;
    });
  }
  static std::string completion(const std::string& prompt, int max_tokens, int seed, bool stream,
                                const std::string& more = "") {
    return fmt::format(R"({{"prompt":"{}","max_tokens":{},"seed":{},"stream":{}{}}})", prompt,
                       max_tokens, seed, stream, more);
  }
  // The data of every event; fails on anything that is not an event.
  static std::vector<std::string> events(const std::string& body) {
    std::vector<std::string> out;
    size_t at = 0;
    while (at < body.size()) {
      const size_t end = body.find("\n\n", at);
      if (end == std::string::npos || body.substr(at, 6) != "data: ") {
        ADD_FAILURE() << "not an event: " << body.substr(at, 100);
        break;
      }
      out.push_back(body.substr(at + 6, end - at - 6));
      at = end + 2;
    }
    return out;
  }
  static std::string text_of(const std::vector<std::string>& events) {
    std::string text;
    for (const std::string& event : events)
      if (event != "[DONE]") {
        const Json json = Json::parse(event);
        if (!json["choices"].empty()) text += json["choices"][0].value("text", "");
      }
    return text;
  }

  std::unique_ptr<World> world_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace sluice
