#include "node-daemon/store/remote/s3_answers.h"

#include <pugixml.hpp>
#include <sstream>

namespace stillpoint::node {
namespace {

Error damaged(const char* expected) {
  return {ErrorKind::damaged, "read answer", "", std::string("the server's answer is no ") + expected};
}

// The document must outlive the node.
pugi::xml_node root_of(pugi::xml_document& document, std::string_view xml, const char* name) {
  if (!document.load_buffer(xml.data(), xml.size())) return {};
  const pugi::xml_node root = document.document_element();
  return std::string_view(root.name()) == name ? root : pugi::xml_node();
}

bool truncated(const pugi::xml_node& root) { return std::string_view(root.child_value("IsTruncated")) == "true"; }

}  // namespace

std::optional<S3Failure> parse_s3_failure(std::string_view xml) {
  pugi::xml_document document;
  const pugi::xml_node root = root_of(document, xml, "Error");
  if (!root) return std::nullopt;
  return S3Failure{root.child_value("Code"), root.child_value("Message"), root.child_value("Region"),
                   root.child_value("Endpoint")};
}

Result<S3Listing> parse_s3_listing(std::string_view xml) {
  constexpr const char* kRoot = "ListBucketResult";
  pugi::xml_document document;
  const pugi::xml_node root = root_of(document, xml, kRoot);
  if (!root) return damaged(kRoot);
  S3Listing listing;
  for (const pugi::xml_node& entry : root.children("Contents")) listing.keys.push_back(entry.child_value("Key"));
  for (const pugi::xml_node& entry : root.children("CommonPrefixes"))
    listing.prefixes.push_back(entry.child_value("Prefix"));
  if (!truncated(root)) return listing;
  listing.next = root.child_value("NextContinuationToken");
  if (listing.next.empty()) return damaged("ListBucketResult that says how to go on");
  return listing;
}

Result<S3Uploads> parse_s3_uploads(std::string_view xml) {
  constexpr const char* kRoot = "ListMultipartUploadsResult";
  pugi::xml_document document;
  const pugi::xml_node root = root_of(document, xml, kRoot);
  if (!root) return damaged(kRoot);
  S3Uploads found;
  for (const pugi::xml_node& entry : root.children("Upload"))
    found.uploads.emplace_back(entry.child_value("Key"), entry.child_value("UploadId"));
  if (!truncated(root)) return found;
  found.next_key = root.child_value("NextKeyMarker");
  found.next_upload = root.child_value("NextUploadIdMarker");
  if (found.next_key.empty()) return damaged("ListMultipartUploadsResult that says how to go on");
  return found;
}

Result<std::string> parse_s3_upload_id(std::string_view xml) {
  constexpr const char* kRoot = "InitiateMultipartUploadResult";
  pugi::xml_document document;
  std::string id = root_of(document, xml, kRoot).child_value("UploadId");
  if (id.empty()) return damaged(kRoot);
  return id;
}

std::string s3_completion(const std::vector<std::string>& etags) {
  pugi::xml_document document;
  pugi::xml_node root = document.append_child("CompleteMultipartUpload");
  for (std::size_t i = 0; i < etags.size(); ++i) {
    pugi::xml_node part = root.append_child("Part");
    part.append_child("PartNumber").text().set(static_cast<unsigned long long>(i + 1));
    part.append_child("ETag").text().set(etags[i].c_str());
  }
  std::ostringstream out;
  document.save(out, "", pugi::format_raw | pugi::format_no_declaration);
  return out.str();
}

}  // namespace stillpoint::node
