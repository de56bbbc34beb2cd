#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "server/openai_api.h"
#include "server/request_check.h"
#include "tests/unit/server/world.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

// Parses and checks, as a request over HTTP is.
class RequestTest : public ::testing::Test {
 protected:
  RequestTest() : world_(WorldOptions{}) {}
  MaybeError completion(const std::string& body, Job* job = nullptr) {
    return run(&parse_completion, body, job);
  }
  MaybeError chat(const std::string& body, Job* job = nullptr) {
    return run(&parse_chat, body, job);
  }
  MaybeError run(MaybeError (*parse)(std::string_view, ApiRequest*), const std::string& body,
                 Job* job) {
    request_ = {};
    if (auto error = parse(body, &request_)) return error;
    Job unused;
    return world_.frontend->prepare(request_, job != nullptr ? job : &unused);
  }
  // A completion with one field more.
  static std::string with(const std::string& field, const std::string& value) {
    return R"({"prompt":"a",")" + field + "\":" + value + "}";
  }
  static std::string chat_with(const std::string& field, const std::string& value) {
    return R"({"messages":[{"role":"user","content":"a"}],")" + field + "\":" + value + "}";
  }

  World world_;
  ApiRequest request_;
};

struct FieldCase {
  const char* field;
  std::vector<const char*> good;
  std::vector<const char*> bad;  // wrong type or out of range
};

const std::vector<FieldCase> kFields = {
    {"temperature", {"0", "0.5", "2", "null"}, {"-0.1", "2.1", "\"1\"", "true", "[]"}},
    {"top_p", {"0.01", "1"}, {"0", "1.01", "-1", "\"x\""}},
    {"min_p", {"0", "1"}, {"-0.1", "1.1", "{}"}},
    {"top_k", {"-1", "0", "5", "5.0"}, {"-2", "1.5", "\"5\"", "99999999999"}},
    {"presence_penalty", {"-2", "2"}, {"-2.1", "2.1", "false"}},
    {"frequency_penalty", {"-2", "2"}, {"-2.1", "2.1", "[1]"}},
    {"repetition_penalty", {"0.1", "10"}, {"0", "-1", "11"}},
    {"seed", {"0", "-5", "9223372036854775807"}, {"1.5", "\"1\"", "18446744073709551615"}},
    {"max_tokens", {"0", "1", "500"}, {"-1", "1.5", "\"3\"", "100000"}},
    {"min_tokens", {"0", "16"}, {"-1", "17", "1000"}},
    {"n", {"1", "16"}, {"0", "17", "-1", "1.5"}},
    {"stop", {"\"x\"", "[]", "[\"a\",\"b\"]"}, {"\"\"", "[\"\"]", "[1]", "5", "{}"}},
    {"stop_token_ids", {"[]", "[1,2]"}, {"[-1]", "[101]", "[\"a\"]", "5"}},
    {"logit_bias",
     {"{}", "{\"5\":-100,\"6\":100}"},
     {"{\"5\":101}", "{\"x\":1}", "{\"101\":1}", "{\"5\":\"a\"}", "[]", "{\"-1\":1}"}},
    {"allowed_token_ids", {"[1]", "null"}, {"[]", "[101]", "\"a\""}},
    {"logprobs", {"0", "5", "null"}, {"6", "-1", "true", "\"1\""}},
    {"prompt_logprobs", {"0", "20"}, {"-1", "21", "\"a\""}},
    {"echo", {"true", "false"}, {"1", "\"true\""}},
    {"stream", {"true", "false"}, {"1", "\"true\""}},
    {"stream_options",
     {"{}", "{\"include_usage\":true}", "{\"include_obfuscation\":false}"},
     {"true", "{\"include_usage\":1}"}},
    {"ignore_eos", {"true"}, {"1"}},
    {"include_stop_str_in_output", {"true"}, {"\"a\""}},
    {"skip_special_tokens", {"false"}, {"0"}},
    {"add_special_tokens", {"false"}, {"0"}},
    {"return_token_ids", {"true"}, {"0"}},
    {"return_tokens_as_token_ids", {"true"}, {"0"}},
    {"truncate_prompt_tokens", {"1", "512"}, {"0", "513", "-1", "\"a\""}},
    {"truncation_side", {"\"left\"", "\"right\""}, {"\"up\"", "1"}},
    {"request_id", {"\"a-b\""}, {"\"a b\"", "5"}},
    {"cache_salt", {"\"s\""}, {"5"}},
    {"model", {"\"test/model\"", "\"\"", "null"}, {"\"other\"", "5"}},
    {"user", {"\"u\""}, {"5"}},
    {"best_of", {"1", "2", "16", "null"}, {"0", "17", "\"a\""}},
    {"include_timing", {"true"}, {"1"}},
    {"priority", {"-1000", "0", "1000"}, {"-1001", "1001", "0.5", "\"1\""}},
    {"timeout_ms", {"0.5", "86400000", "null"}, {"0", "-1", "86400001", "\"1\"", "true"}},
    {"ttft_ms", {"1000.5", "86400000"}, {"0", "-1", "86400001", "[]"}},
    {"tpot_ms", {"0.5", "86400000"}, {"0", "-1", "86400001", "{}"}},
    {"session_id", {"\"\"", "\"a b/\u00e9\"", "null"}, {"5", "[]"}},
};

TEST_F(RequestTest, EveryFieldGoodAndBad) {
  for (const FieldCase& c : kFields) {
    for (const char* value : c.good) {
      const MaybeError error = completion(with(c.field, value));
      EXPECT_FALSE(error) << c.field << "=" << value << ": " << error->message;
    }
    for (const char* value : c.bad) {
      const MaybeError error = completion(with(c.field, value));
      ASSERT_TRUE(error) << c.field << "=" << value;
      EXPECT_EQ(error->param.substr(0, error->param.find('.')), c.field) << error->message;
      EXPECT_NE(error->message.find(error->param), std::string::npos) << error->message;
    }
  }
}

const std::vector<FieldCase> kChatFields = {
    {"max_tokens", {"1", "400"}, {"0", "-1", "100000"}},
    {"max_completion_tokens", {"1", "400"}, {"0", "-1", "100000", "\"a\""}},
    {"logprobs", {"true", "false"}, {"1", "\"a\""}},
    {"chat_template_kwargs", {"{}", "{\"x\":1}"}, {"1", "{\"messages\":[]}"}},
    {"documents", {"[]"}, {"5"}},
    {"reasoning_effort", {"\"low\""}, {"5"}},
    {"add_generation_prompt", {"false"}, {"\"a\""}},
    {"continue_final_message", {"true"}, {"5"}},
    {"parallel_tool_calls", {"true", "false"}, {"\"a\""}},
};

TEST_F(RequestTest, ChatFieldsGoodAndBad) {
  for (const FieldCase& c : kChatFields) {
    for (const char* value : c.good) {
      const MaybeError error = chat(chat_with(c.field, value));
      EXPECT_FALSE(error) << c.field << "=" << value << ": " << error->message;
    }
    for (const char* value : c.bad) {
      const MaybeError error = chat(chat_with(c.field, value));
      ASSERT_TRUE(error) << c.field << "=" << value;
      EXPECT_EQ(error->param, c.field) << error->message;
    }
  }
  EXPECT_FALSE(chat(chat_with("logprobs\":true,\"top_logprobs", "20")));
  EXPECT_EQ(chat(chat_with("logprobs\":true,\"top_logprobs", "21"))->param, "top_logprobs");
  EXPECT_EQ(chat(chat_with("top_logprobs", "2"))->param, "top_logprobs");
}

// Known fields that need what this server has not: refused by name, unless they ask for nothing.
TEST_F(RequestTest, UnsupportedFieldsAreNamed) {
  const std::vector<FieldCase> cases = {
      {"tools", {"[]", "null"}, {R"([{"type":"function","function":{"name":"f"}}])"}},
      {"tool_choice", {"\"none\"", "\"auto\""}, {"\"required\"", "{\"type\":\"function\"}"}},
      {"functions", {"[]"}, {"[{}]"}},
      {"function_call", {"\"none\""}, {"{\"name\":\"f\"}"}},
      {"response_format",
       {R"({"type":"text"})"},
       {R"({"type":"json_object"})", R"({"type":"json_schema","json_schema":{}})"}},
      {"guided_json", {"null"}, {"{\"type\":\"object\"}"}},
      {"guided_regex", {"null", "\"\""}, {"\"a+\""}},
      {"guided_choice", {"null"}, {"[\"a\"]"}},
      {"guided_grammar", {"null"}, {"\"root ::= x\""}},
      {"structured_outputs", {"null", "{}"}, {"{\"json\":{}}"}},
      {"use_beam_search", {"false"}, {"true"}},
      {"length_penalty", {"1", "1.0"}, {"2"}},
      {"bad_words", {"[]"}, {"[\"x\"]"}},
      {"audio", {"null"}, {"{\"voice\":\"x\"}"}},
      {"prediction", {"null"}, {"{\"type\":\"content\"}"}},
      {"web_search_options", {"null"}, {"{\"a\":1}"}},
      {"modalities", {"[\"text\"]"}, {"[\"text\",\"audio\"]"}},
      {"chat_template", {"null"}, {"\"{{ 1 }}\""}},
      {"echo", {"false"}, {"true"}},
      {"kv_transfer_params", {"null"}, {"{\"a\":1}"}},
  };
  for (const FieldCase& c : cases) {
    for (const char* value : c.good)
      EXPECT_FALSE(chat(chat_with(c.field, value))) << c.field << "=" << value;
    for (const char* value : c.bad) {
      const MaybeError error = chat(chat_with(c.field, value));
      ASSERT_TRUE(error) << c.field << "=" << value;
      EXPECT_EQ(error->kind, ErrorKind::unsupported);
      EXPECT_EQ(error->code(), "unsupported_parameter");
      EXPECT_EQ(error->param, c.field);
      EXPECT_EQ(error->http_status(), 400);
    }
  }
  EXPECT_EQ(completion(with("suffix", "\"x\""))->param, "suffix");
  EXPECT_FALSE(completion(with("suffix", "\"\"")));
  EXPECT_EQ(completion(with("prompt_embeds", "\"x\""))->param, "prompt_embeds");
  EXPECT_EQ(completion(with("prompt_logprobs\":1,\"stream", "true"))->param, "prompt_logprobs");
}

TEST_F(RequestTest, FieldsWithoutEffectAreAcceptedAndUnknownOnesCollected) {
  EXPECT_FALSE(completion(
      R"({"prompt":"a","metadata":{"a":"b"},"store":true,"service_tier":"auto","foo":1,
          "stream_options":{"bar":2},"verbosity":"low","user":null})"));
  EXPECT_EQ(request_.ignored, (std::vector<std::string>{"stream_options.bar", "foo"}));
}

TEST_F(RequestTest, Prompts) {
  const auto count = [&](const char* prompt) {
    Job job;
    const MaybeError error = completion(fmt::format(R"({{"prompt":{}}})", prompt), &job);
    EXPECT_FALSE(error) << prompt << ": " << error->message;
    return static_cast<int>(job.requests.size());
  };
  EXPECT_EQ(count("\"abc\""), 1);
  EXPECT_EQ(count("[1,2,3]"), 1);
  EXPECT_EQ(count("[\"a\",\"b\"]"), 2);
  EXPECT_EQ(count("[[1],[2],[3]]"), 3);
  for (const char* bad : {"[]", "5", "{}", "[[]]", "[1,\"a\"]", "[\"a\",1]", "[101]", "[-1]",
                          "[[1],[99999999999]]", "[1.5]", "true", "null"}) {
    const MaybeError error = completion(fmt::format(R"({{"prompt":{}}})", bad));
    ASSERT_TRUE(error) << bad;
    EXPECT_EQ(error->param, "prompt") << error->message;
  }
  EXPECT_EQ(completion("{}")->message, "prompt is required");
}

TEST_F(RequestTest, Messages) {
  const auto message = [](const std::string& m) { return "{\"messages\":" + m + "}"; };
  for (const char* good : {
           R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])",
           R"([{"role":"developer","content":"d"}])",
           R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])",
           R"([{"role":"user","content":"u"},{"role":"assistant","content":null,"tool_calls":
              [{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
              {"role":"tool","tool_call_id":"1","content":"r"}])",
           R"([{"role":"user","content":"u","name":"n","extra":5}])",
       }) {
    const MaybeError error = chat(message(good));
    EXPECT_FALSE(error) << good << error->message;
  }
  const std::vector<std::pair<const char*, const char*>> bad = {
      {"[]", "messages"},
      {"{}", "messages"},
      {"\"a\"", "messages"},
      {"[5]", "messages[0]"},
      {R"([{"content":"a"}])", "messages[0].role"},
      {R"([{"role":"king","content":"a"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":null}])", "messages[0].content"},
      {R"([{"role":"user","content":5}])", "messages[0].content"},
      {R"([{"role":"user","content":[{"type":"image_url"}]}])", "messages[0].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
      {R"([{"role":"user","content":[5]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":"a","name":5}])", "messages[0].name"},
      {R"([{"role":"assistant","tool_calls":5}])", "messages[0].tool_calls"},
  };
  for (const auto& [text, param] : bad) {
    const MaybeError error = chat(message(text));
    ASSERT_TRUE(error) << text;
    EXPECT_TRUE(error->param.starts_with(param)) << text << " -> " << error->param;
  }
  EXPECT_EQ(chat("{}")->param, "messages");
}

TEST_F(RequestTest, MessagesAreRewrittenForTemplates) {
  ApiRequest out;
  ASSERT_FALSE(normalise_messages(
      R"([{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
          {"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{\"x\":[1]}"}}]}])",
      &out));
  const Json messages = Json::parse(out.messages);
  EXPECT_EQ(messages[0]["role"], "system");
  EXPECT_EQ(messages[0]["content"], "a\nb");
  EXPECT_EQ(messages[1]["content"], "");
  EXPECT_EQ(messages[1]["tool_calls"][0]["function"]["arguments"]["x"][0], 1);
}

TEST_F(RequestTest, DefaultsAndWhatTheEngineGets) {
  Job job;
  ASSERT_FALSE(completion(R"({"prompt":"abc"})", &job));
  EXPECT_EQ(job.requests[0].sampling.max_tokens, 16);
  EXPECT_EQ(job.requests[0].sampling.temperature, 1.0f);
  EXPECT_EQ(job.requests[0].prompt.size(), 4u);  // begin of text and three characters
  EXPECT_EQ(job.usage().prompt, 4);

  Job chat_job;
  ASSERT_FALSE(chat(R"({"messages":[{"role":"user","content":"abc"}]})", &chat_job));
  const int prompt = static_cast<int>(chat_job.requests[0].prompt.size());
  EXPECT_EQ(prompt, static_cast<int>(std::string_view("[user]abc[assistant]").size()));
  EXPECT_EQ(chat_job.requests[0].sampling.max_tokens, 512 - prompt);

  Job full;
  ASSERT_FALSE(completion(
      R"({"prompt":"abc","temperature":0.5,"top_p":0.9,"min_p":0.1,"top_k":-1,"seed":7,"n":3,
          "presence_penalty":1,"frequency_penalty":-1,"repetition_penalty":1.5,"max_tokens":9,
          "min_tokens":3,"stop_token_ids":[5],"logit_bias":{"6":-2.5},"allowed_token_ids":[1,2],
          "ignore_eos":true,"logprobs":2,"stop":["x"],"add_special_tokens":false,"top_k":4})",
      &full));
  const GenerateRequest& r = full.requests[0];
  const SamplingParams& s = r.sampling;
  EXPECT_EQ(r.prompt.size(), 3u);
  EXPECT_EQ(r.num_samples, 3);
  EXPECT_FLOAT_EQ(s.temperature, 0.5);
  EXPECT_FLOAT_EQ(s.top_p, 0.9f);
  EXPECT_FLOAT_EQ(s.min_p, 0.1f);
  EXPECT_EQ(s.top_k, 4);
  EXPECT_EQ(s.seed, 7u);
  EXPECT_FLOAT_EQ(s.presence_penalty, 1);
  EXPECT_FLOAT_EQ(s.frequency_penalty, -1);
  EXPECT_FLOAT_EQ(s.repetition_penalty, 1.5);
  EXPECT_EQ(s.max_tokens, 9);
  EXPECT_EQ(s.min_tokens, 3);
  EXPECT_EQ(s.stop_tokens, (std::vector<TokenId>{5}));
  ASSERT_EQ(s.logit_bias.size(), 1u);
  EXPECT_EQ(s.logit_bias[0], (std::pair<TokenId, float>{6, -2.5f}));
  EXPECT_EQ(s.allowed, (std::vector<TokenId>{1, 2}));
  EXPECT_TRUE(s.ignore_eos);
  EXPECT_EQ(s.top_logprobs, 2);
  EXPECT_EQ(s.prompt_logprobs, -1);

  Job seeds[2];
  ASSERT_FALSE(completion(R"({"prompt":"a"})", &seeds[0]));
  ASSERT_FALSE(completion(R"({"prompt":"a"})", &seeds[1]));
  EXPECT_NE(seeds[0].requests[0].sampling.seed, seeds[1].requests[0].sampling.seed);
  EXPECT_NE(seeds[0].id, seeds[1].id);
}

TEST_F(RequestTest, ContextAndTruncation) {
  const std::string long_text(600, 'x');
  MaybeError error = completion(R"({"prompt":")" + long_text + R"(","max_tokens":1})");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), "context_length_exceeded");
  error = completion(R"({"prompt":"abc","max_tokens":509})");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->param, "max_tokens");
  EXPECT_FALSE(completion(R"({"prompt":"abc","max_tokens":508})"));
  // The default gives way to the context; a number the client named does not.
  EXPECT_FALSE(completion(R"({"prompt":")" + std::string(505, 'x') + R"("})"));
  // Refused before it is tokenised.
  error = completion(R"({"prompt":")" + std::string(100000, 'x') + R"("})");
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::context_length);

  Job job;
  ASSERT_FALSE(completion(R"({"prompt":"abcdef","truncate_prompt_tokens":2,"echo":true})", &job));
  EXPECT_EQ(job.requests[0].prompt, CharTokenizer::ids("ef"));
  EXPECT_EQ(job.prompts[0].text, "ef");
  Job right;
  ASSERT_FALSE(completion(
      R"({"prompt":"abc","truncate_prompt_tokens":2,"truncation_side":"right"})", &right));
  EXPECT_EQ(right.requests[0].prompt, (std::vector<TokenId>{CharTokenizer::kBos, 65}));
}

TEST_F(RequestTest, ContinueFinalMessageCutsTheTurnOpen) {
  ApiRequest request;
  ASSERT_FALSE(parse_chat(
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"Once "}],
          "continue_final_message":true})",
      &request));
  std::string text;
  ASSERT_FALSE(world_.frontend->render_chat(request, &text));
  EXPECT_EQ(text, "[user]a[assistant]Once ");
  EXPECT_TRUE(parse_chat(R"({"messages":[{"role":"user","content":"a"}],
      "continue_final_message":true,"add_generation_prompt":true})",
                         &request));
}

// What a client wrote reaches the template in its order: prompts, and so answers, depend on it.
TEST_F(RequestTest, KeysKeepTheirOrder) {
  ApiRequest request;
  ASSERT_FALSE(parse_chat(
      R"({"chat_template_kwargs":{"z":{"d":1,"c":2},"b":3},
          "messages":[{"role":"assistant","zz":{"y":1,"x":2},"content":"c","a":1,
            "tool_calls":[{"type":"function","function":{"name":"f","arguments":"{\"q\":1,\"p\":2}"}}]}]})",
      &request));
  EXPECT_EQ(
      request.messages,
      R"([{"role":"assistant","zz":{"y":1,"x":2},"content":"c","a":1,)"
      R"("tool_calls":[{"type":"function","function":{"name":"f","arguments":{"q":1,"p":2}}}]}])");
  EXPECT_EQ(request.template_kwargs, R"({"z":{"d":1,"c":2},"b":3})");
  EXPECT_EQ(sorted_json(R"({"b":{"d":1,"c":[2]},"a":3})"), R"({"a":3,"b":{"c":[2],"d":1}})");
}

// An object of very many keys, each sent twice: the last value counts, in the place of the first.
TEST_F(RequestTest, ManyKeysAreNoQuadraticWork) {
  constexpr int kKeys = 200000;
  std::string body = R"({"messages":[{"role":"user","content":"a"}],"chat_template_kwargs":{)";
  for (int i = 0; i < 2 * kKeys; ++i) body += fmt::format(R"("k{}":{},)", i % kKeys, i);
  body += R"("last":1}})";
  ApiRequest request;
  ASSERT_FALSE(parse_chat(body, &request));
  EXPECT_TRUE(request.template_kwargs.starts_with(R"({"k0":200000,"k1":200001,)"));
  EXPECT_TRUE(request.template_kwargs.ends_with(R"("k199999":399999,"last":1})"));
}

TEST_F(RequestTest, TemplatesOfClientsNeedTrust) {
  const std::string own =
      chat_with("chat_template", R"("{{ messages[0].content }}{{ eos_token }}")");
  ApiRequest request;
  std::string text;
  ASSERT_FALSE(parse_chat(own, &request));
  const MaybeError refused = world_.frontend->render_chat(request, &text);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->param, "chat_template");
  EXPECT_NE(refused->message.find("(default)"), std::string::npos) << refused->message;
  ASSERT_FALSE(parse_chat(chat_with("chat_template", "\"default\""), &request));
  ASSERT_FALSE(world_.frontend->render_chat(request, &text));
  EXPECT_EQ(text, "[user]a[assistant]");

  World trusting(WorldOptions{.trust_request_chat_template = true});
  ASSERT_FALSE(parse_chat(own, &request));
  ASSERT_FALSE(trusting.frontend->render_chat(request, &text));
  EXPECT_EQ(text, "a<eos>");
  for (const char* bad : {R"("{% if %}")", R"("{{ 1 // 0 }}")"}) {
    request = {};
    ASSERT_FALSE(parse_chat(chat_with("chat_template", bad), &request));
    const MaybeError error = trusting.frontend->render_chat(request, &text);
    ASSERT_TRUE(error) << bad;
    EXPECT_EQ(error->http_status(), 400);
    EXPECT_NE(error->message.find("line 1"), std::string::npos) << error->message;
  }
}

TEST_F(RequestTest, SaltsSeparatePrefixes) {
  Job a, b, c;
  ASSERT_FALSE(completion(R"({"prompt":"a","cache_salt":"x"})", &a));
  ASSERT_FALSE(completion(R"({"prompt":"a","cache_salt":"y"})", &b));
  ASSERT_FALSE(completion(R"({"prompt":"a"})", &c));
  EXPECT_NE(a.requests[0].cache_salt, b.requests[0].cache_salt);
  EXPECT_EQ(c.requests[0].cache_salt, 0u);
}

TEST_F(RequestTest, BestOfMakesMoreThanItShows) {
  Job job;
  ASSERT_FALSE(completion(with("best_of\":5,\"n", "2"), &job));
  EXPECT_EQ(job.requests[0].num_samples, 5);
  EXPECT_EQ(job.stream.num_samples, 5);
  EXPECT_EQ(job.stream.num_choices, 2);
  EXPECT_FALSE(completion(with("best_of\":2,\"stream\":true,\"n", "2")));
  for (const char* bad : {"best_of\":2,\"n", "best_of\":4,\"stream\":true,\"n"}) {
    const MaybeError error = completion(with(bad, "3"));
    ASSERT_TRUE(error) << bad;
    EXPECT_EQ(error->param, "best_of") << error->message;
  }
}

TEST_F(RequestTest, HowARequestWantsToBeScheduled) {
  Job job;
  ASSERT_FALSE(completion(R"({"prompt":"abc"})", &job));
  EXPECT_EQ(job.requests[0].priority, 0);
  EXPECT_EQ(job.requests[0].deadline, kNever);
  EXPECT_EQ(job.requests[0].first_token_by, kNever);
  EXPECT_EQ(job.requests[0].token_interval, Nanos{0});
  EXPECT_EQ(job.requests[0].session, 0u);
  EXPECT_FALSE(job.requests[0].sampling.seed_given);

  Job full;
  ASSERT_FALSE(chat(
      R"({"messages":[{"role":"user","content":"abc"}],"priority":-3,"timeout_ms":1500,
          "ttft_ms":20.5,"tpot_ms":0.25,"session_id":"s","seed":0})",
      &full));
  const GenerateRequest& r = full.requests[0];
  const Instant received = request_.received;
  EXPECT_EQ(r.priority, -3);
  EXPECT_EQ(r.deadline, received + std::chrono::milliseconds(1500));
  EXPECT_EQ(r.first_token_by, received + std::chrono::microseconds(20500));
  EXPECT_EQ(r.token_interval, std::chrono::microseconds(250));
  EXPECT_NE(r.session, 0u);
  EXPECT_TRUE(r.sampling.seed_given);

  // The earlier of the protocol's deadline and the request's own.
  ApiRequest early;
  early.prompts.push_back({"abc", {}, false});
  early.deadline = Instant{} + std::chrono::milliseconds(5);
  early.timeout_ms = 10;
  Job cut;
  ASSERT_FALSE(world_.frontend->prepare(early, &cut));
  EXPECT_EQ(cut.requests[0].deadline, early.deadline);
}

TEST_F(RequestTest, SessionsOfOtherSaltsAreOthers) {
  const auto session = [&](const char* fields) {
    Job job;
    EXPECT_FALSE(completion(fmt::format(R"({{"prompt":"abc"{}}})", fields), &job));
    return job.requests[0].session;
  };
  const uint64_t plain = session(R"(,"session_id":"s")");
  EXPECT_EQ(session(R"(,"session_id":"s")"), plain);
  EXPECT_NE(session(R"(,"session_id":"t")"), plain);
  EXPECT_NE(session(R"(,"session_id":"s","cache_salt":"a")"), plain);
  EXPECT_NE(session(R"(,"session_id":"s","cache_salt":"a")"),
            session(R"(,"session_id":"s","cache_salt":"b")"));
  EXPECT_EQ(session(R"(,"session_id":"s","priority":5)"), plain);

  EXPECT_FALSE(completion(with("session_id", '"' + std::string(256, 'x') + '"')));
  for (const std::string& bad :
       {with("session_id", '"' + std::string(257, 'x') + '"'), with("session_id\":\"s\",\"n", "2"),
        std::string(R"({"prompt":["a","b"],"session_id":"s"})")}) {
    const MaybeError error = completion(bad);
    ASSERT_TRUE(error) << bad;
    EXPECT_EQ(error->param, "session_id");
  }
}

}  // namespace
}  // namespace sluice
