#include "node-daemon/object_store_flags.h"

#include "common/file.h"
#include "common/log.h"

namespace stillpoint::node {
namespace {

constexpr std::chrono::seconds kLook{3};

}  // namespace

void add_flags(CLI::App& app, ObjectStoreFlags& flags) {
  auto* endpoint = app.add_option("--s3-endpoint", flags.s3.endpoint,
                                  "URL of the site's S3 store, where images of jobs with durability site go");
  const auto option = [&](const std::string& name, auto& value, const std::string& what) {
    return app.add_option(name, value, what)->needs(endpoint);
  };
  endpoint->needs(option("--s3-bucket", flags.s3.bucket, "the bucket, which is there"));
  option("--s3-prefix", flags.s3.prefix, "of all names in the bucket");
  option("--s3-region", flags.s3.region, "us-east-1 if not given");
  option("--s3-credentials", flags.s3.credentials,
         "file with the key, 0600; s3.credentials beside the certificate if not given");
  option("--s3-ca", flags.s3.ca, "file of the CAs that the server's certificate may be of; the system's if not given");
  app.add_flag("--s3-virtual-host", flags.virtual_host, "the bucket is part of the server's name")->needs(endpoint);
}

Result<ObjectStore> open_object_store(const ObjectStoreFlags& flags, const std::filesystem::path& tls,
                                      const HostName& host, std::shared_ptr<UploadCaps> caps) {
  if (flags.s3.endpoint.empty()) return ObjectStore{};
  S3Settings settings = flags.s3;
  settings.path_style = !flags.virtual_host;
  settings.caps = std::move(caps);
  if (settings.credentials.empty()) settings.credentials = tls / "s3.credentials";
  if (!settings.ca.empty())
    if (auto ca = read_file(settings.ca); !ca) return ca.error();
  auto store = S3Store::make(settings);
  if (!store) return store.error();
  // Machines of this host may wait to be taken up: one look, and a store that does not answer now is used when it does.
  S3Settings look = settings;
  look.retries.attempts = 1;
  look.connect_timeout = kLook;
  look.stall_timeout = kLook;
  auto once = S3Store::make(look);
  if (!once) return once.error();
  ObjectStore opened{std::shared_ptr<BlobStore>(std::move(*store)), true};
  if (auto checked = (*once)->check(); !checked) {
    opened.usable = checked.error().kind == ErrorKind::transient;
    if (opened.usable) log_warn("the S3 store does not answer", {{"cause", checked.error().message()}});
    else
      log_error(
          "the S3 store cannot be used: jobs of durability site take no checkpoints here until that is put right "
          "and this daemon was started again",
          {{"cause", checked.error().message()}});
    return opened;
  }
  auto ended = (*once)->end_unfinished(host.value);
  if (!ended) log_warn("unfinished uploads not ended", {{"cause", ended.error().message()}});
  else if (*ended > 0) log_info("unfinished uploads ended", {{"count", std::to_string(*ended)}});
  return opened;
}

}  // namespace stillpoint::node
