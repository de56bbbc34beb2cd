#include "server/grpc_server.h"

#include <grpcpp/alarm.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "server/accept_loop.h"
#include "server/grpc_convert.h"
#include "server/json_text.h"
#include "server/shard_thread.h"
#include "sluice/v1/inference.grpc.pb.h"

namespace sluice {
namespace {

Instant now() { return std::chrono::steady_clock::now(); }

// gRPC's deadlines are wall-clock times; ours are monotonic.
Instant deadline_of(const grpc::CallbackServerContext& context) {
  const auto at = context.deadline();
  if (at == std::chrono::system_clock::time_point::max()) return kNever;
  const auto left = at - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return kNever;
  return now() + left;
}

// One streaming call. gRPC's threads and the shard's thread meet here, under one lock; messages
// wait in `pending_` while an earlier one is on its way. Lives until OnDone and until the writer is
// gone.
template <class Response>
class StreamCall final : public grpc::ServerWriteReactor<Response>,
                         public std::enable_shared_from_this<StreamCall<Response>> {
 public:
  StreamCall(Frontend& frontend, int shard, grpc::CallbackServerContext* context)
      : frontend_(frontend), shard_(shard), context_(context) {}

  // Keeps itself alive from here to OnDone.
  void hold() { self_ = this->shared_from_this(); }

  void send(Response message) {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    pending_.push_back(std::move(message));
    pump();
  }
  // After what was sent. The first status wins.
  void finish(grpc::Status status) {
    std::lock_guard lock(mutex_);
    if (finished_) return;
    finished_ = true;
    status_ = std::move(status);
    if (!status_.ok()) pending_.clear();
    pump();
  }
  void refuse(const ApiError& error) {
    if (error.retry_after_ms() > 0)
      context_->AddTrailingMetadata("retry-after-ms", std::to_string(error.retry_after_ms()));
    finish(to_status(error));
  }
  // False: the client has left, or has stopped reading and is dropped.
  bool healthy() {
    std::lock_guard lock(mutex_);
    if (cancelled_) return false;
    const std::chrono::seconds timeout(frontend_.limits().write_timeout_seconds);
    if (!writing_ || now() - write_began_ <= timeout) return true;
    context_->TryCancel();  // a write that is stuck would keep Finish waiting
    return false;
  }

  // The shard's thread only.
  void set_stream(RequestId stream) { stream_ = stream; }
  bool cancelled() {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      cancelled_ = true;
      pending_.clear();
    }
    pump();
  }
  void OnCancel() override {
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
    }
    // The post that starts the stream was queued before this one.
    frontend_.hub().post(shard_, [call = this->shared_from_this()] {
      if (call->stream_) call->frontend_.cancel(call->shard_, call->stream_);
      call->finish(grpc::Status::CANCELLED);
    });
  }
  void OnDone() override { self_.reset(); }

 private:
  void pump() {  // under the lock
    if (writing_ || done_) return;
    if (!pending_.empty()) {
      writing_ = true;
      write_began_ = now();
      current_ = std::move(pending_.front());
      pending_.pop_front();
      this->StartWrite(&current_);
    } else if (finished_) {
      done_ = true;
      this->Finish(status_);
    }
  }

  Frontend& frontend_;
  const int shard_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<StreamCall> self_;
  RequestId stream_ = 0;

  std::mutex mutex_;
  std::deque<Response> pending_;
  Response current_;  // must outlive its write
  Instant write_began_{};
  grpc::Status status_;
  bool writing_ = false, finished_ = false, done_ = false, cancelled_ = false;
};

// Writes a response as messages. On the shard's thread.
template <class Response>
class MessageWriter final : public ChunkWriter {
 public:
  MessageWriter(std::shared_ptr<StreamCall<Response>> call, const ModelInfo& model, std::string id,
                bool stream, bool want_logprobs)
      : call_(std::move(call)),
        model_(model),
        id_(std::move(id)),
        created_(std::chrono::duration_cast<std::chrono::seconds>(
                     std::chrono::system_clock::now().time_since_epoch())
                     .count()),
        stream_(stream),
        want_logprobs_(want_logprobs) {}

  void prompt(int, const PromptOut& prompt) override {
    set_prompt_logprobs(prompt, *model_.tokenizer, gathered_[0].mutable_piece());
  }
  void write(const Delta& delta) override {
    Response& message = gathered_[delta.choice];
    append_piece(delta, *model_.tokenizer, want_logprobs_, message.mutable_piece());
    if (!stream_ && delta.finish == FinishReason::none) return;
    send(std::move(message));
    gathered_.erase(delta.choice);
  }
  void end(const Usage& usage, const Timing* timing) override {
    Response last;
    set_usage(usage, last.mutable_usage());
    if (timing != nullptr) set_timing(*timing, last.mutable_timing());
    send(std::move(last));
    call_->finish(grpc::Status::OK);
  }
  void fail(const ApiError& error) override { call_->refuse(error); }
  bool flush() override { return call_->healthy(); }

 private:
  void send(Response message) {
    message.set_id(id_);
    message.set_model(model_.name);
    message.set_created(created_);
    call_->send(std::move(message));
  }

  const std::shared_ptr<StreamCall<Response>> call_;
  const ModelInfo& model_;
  const std::string id_;
  const int64_t created_;
  const bool stream_, want_logprobs_;
  std::map<int, Response> gathered_;  // by choice; what has not been sent
};

// One unary call that the engine has a part in. Whoever comes first ends it: the answer, on the
// shard's thread, or the alarm. Lives until OnDone and until the answer was dropped.
class EngineCall final : public grpc::ServerUnaryReactor,
                         public std::enable_shared_from_this<EngineCall> {
 public:
  // Keeps itself alive from here to OnDone.
  void hold() {
    self_ = shared_from_this();
    // Not an owner: the alarm is this object's, and would keep it forever.
    alarm_.Set(std::chrono::system_clock::now() +
                   std::chrono::duration_cast<std::chrono::system_clock::duration>(kInspectLimit),
               [weak = weak_from_this()](bool expired) {
                 const auto call = weak.lock();
                 if (expired && call) call->answer(no_answer_error(), [] {});
               });
  }
  // `fill` writes the response, which is there as long as the call.
  template <class Fill>
  void answer(const MaybeError& error, Fill fill) {
    std::lock_guard lock(mutex_);
    if (std::exchange(answered_, true)) return;
    if (!error) fill();
    Finish(error ? to_status(*error) : grpc::Status::OK);
  }
  void OnDone() override { self_.reset(); }

 private:
  std::shared_ptr<EngineCall> self_;
  std::mutex mutex_;
  bool answered_ = false;
  grpc::Alarm alarm_;
};

class InferenceService final : public v1::Inference::CallbackService {
 public:
  InferenceService(Frontend& frontend, int shard) : frontend_(frontend), shard_(shard) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return run<v1::GenerateResponse>(context, *request);
  }
  grpc::ServerWriteReactor<v1::ChatResponse>* Chat(grpc::CallbackServerContext* context,
                                                   const v1::ChatRequest* request) override {
    return run<v1::ChatResponse>(context, *request);
  }
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    v1::Model* model = response->add_models();
    model->set_id(frontend_.model().name);
    model->set_created(frontend_.model().created);
    model->set_owned_by("sluice");
    model->set_max_model_len(frontend_.model().max_model_len);
    return reply(context, std::nullopt);
  }
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    ApiRequest api;
    std::vector<TokenId> ids;
    MaybeError error = from_proto(*request, &api);
    if (!error) error = frontend_.check_model(api.model);
    if (!error) error = frontend_.tokenize(api, &ids);
    response->mutable_tokens()->Assign(ids.begin(), ids.end());
    response->set_count(static_cast<int>(ids.size()));
    response->set_max_model_len(frontend_.model().max_model_len);
    return reply(context, error);
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    const std::vector<TokenId> ids(request->tokens().begin(), request->tokens().end());
    MaybeError error = frontend_.check_model(request->model());
    if (!error) error = frontend_.detokenize(ids, response->mutable_prompt());
    return reply(context, error);
  }
  grpc::ServerUnaryReactor* ListRequests(grpc::CallbackServerContext*,
                                         const v1::ListRequestsRequest*,
                                         v1::ListRequestsResponse* response) override {
    const auto call = engine_call();
    frontend_.list_requests(shard_, [call, response](const MaybeError& error, const auto& views) {
      call->answer(error, [&] {
        for (const RequestView& view : views) set_request(view, response->add_requests());
      });
    });
    return call.get();
  }
  grpc::ServerUnaryReactor* GetRequestTrace(grpc::CallbackServerContext*,
                                            const v1::GetRequestTraceRequest* request,
                                            v1::GetRequestTraceResponse* response) override {
    const auto call = engine_call();
    frontend_.request_trace(shard_, request->id(),
                            [call, response](const MaybeError& error, const auto& views) {
                              call->answer(error, [&] {
                                response->set_id(views.front().id);
                                for (const RequestView& view : views)
                                  set_trace(view, response->add_prompts());
                              });
                            });
    return call.get();
  }
  grpc::ServerUnaryReactor* CancelRequest(grpc::CallbackServerContext* context,
                                          const v1::CancelRequestRequest* request,
                                          v1::CancelRequestResponse* response) override {
    response->set_id(request->id());
    response->set_cancelled(true);
    return reply(context, frontend_.cancel_request(request->id()));
  }

 private:
  static grpc::ServerUnaryReactor* reply(grpc::CallbackServerContext* context,
                                         const MaybeError& error) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(error ? to_status(*error) : grpc::Status::OK);
    return reactor;
  }

  static std::shared_ptr<EngineCall> engine_call() {
    auto call = std::make_shared<EngineCall>();
    call->hold();
    return call;
  }

  // Tokenises on gRPC's thread, then hands over to the shard's.
  template <class Response, class Request>
  grpc::ServerWriteReactor<Response>* run(grpc::CallbackServerContext* context,
                                          const Request& request) {
    auto call = std::make_shared<StreamCall<Response>>(frontend_, shard_, context);
    call->hold();
    ApiRequest api;
    api.received = now();
    api.deadline = deadline_of(*context);
    auto job = std::make_shared<Job>();
    MaybeError error;
    try {
      error = frontend_.accepting();  // cheap: before the template and the tokeniser run
      api.body_bytes = static_cast<int64_t>(request.ByteSizeLong());
      if (!error) error = frontend_.admit(api.body_bytes);
      if (!error) error = from_proto(request, &api);
      if (!error) error = frontend_.prepare(api, job.get());
    } catch (const std::exception& e) {
      error = api_error_thrown(e, Request::descriptor()->full_name());
    }
    if (error) {
      frontend_.count_rejected(*error);
      call->refuse(*error);
      return call.get();
    }
    context->AddInitialMetadata("x-request-id", job->id);
    frontend_.hub().post(shard_, [this, call, job, id = job->id, stream = api.stream,
                                  want_logprobs = api.logprobs.has_value()]() mutable {
      if (call->cancelled()) return call->finish(grpc::Status::CANCELLED);
      auto writer = std::make_unique<MessageWriter<Response>>(call, frontend_.model(),
                                                              std::move(id), stream, want_logprobs);
      RequestId id_of_stream = 0;
      const MaybeError refused =
          frontend_.start(shard_, std::move(*job), std::move(writer), &id_of_stream);
      if (refused) {
        frontend_.count_rejected(*refused);
        return call->refuse(*refused);
      }
      call->set_stream(id_of_stream);
    });
    return call.get();
  }

  Frontend& frontend_;
  const int shard_;
};

}  // namespace

struct GrpcServer::Impl {
  Impl(const Config::Server& c, Frontend& f, int s)
      : max_body_bytes(c.max_body_bytes), shard(f, s), service(f, s) {}
  const int64_t max_body_bytes;
  ShardThread shard;
  InferenceService service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections;
  std::unique_ptr<AcceptLoop> accept_loop;  // null once it has ended
  int port = 0;
  bool adopted = false;  // the listener has other owners
};

GrpcServer::GrpcServer(const Config::Server& config, Frontend& frontend, int shard)
    : impl_(std::make_unique<Impl>(config, frontend, shard)) {}

GrpcServer::~GrpcServer() { stop(); }

// The library can only bind listening sockets of its own, but takes connections that others
// accepted; so a listener that a service manager hands over and one of ours are served alike.
absl::Status GrpcServer::start(Listener listener) {
  if (absl::Status s = listener.listen(); !s.ok()) return s;
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  impl_->connections = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(
      static_cast<int>(std::min<int64_t>(impl_->max_body_bytes, std::numeric_limits<int>::max())));
  builder.RegisterService(&impl_->service);
  impl_->server = builder.BuildAndStart();
  if (!impl_->server) return internal_error("the gRPC library does not start");
  set_serving(false);
  impl_->port = listener.port();
  impl_->adopted = listener.adopted();
  impl_->accept_loop = std::make_unique<AcceptLoop>(
      std::move(listener), [connections = impl_->connections.get()](int fd) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
        connection.fd = fd;
        connections->HandleNewConnection(&connection);
      });
  return absl::OkStatus();
}

int GrpcServer::port() const { return impl_->port; }

void GrpcServer::set_serving(bool serving) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  health->SetServingStatus(serving);  // "" and every service set by name
  health->SetServingStatus("sluice.v1.Inference", serving);
}

void GrpcServer::announce_drain() {
  set_serving(false);
  if (impl_->adopted) impl_->accept_loop.reset();
}

void GrpcServer::begin_drain() { impl_->accept_loop.reset(); }

void GrpcServer::stop() {
  if (!impl_->server) return;
  begin_drain();
  impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
  impl_->server->Wait();
  impl_->server.reset();
}

}  // namespace sluice
