package sluice.root;

import java.util.List;
import java.util.function.Supplier;
import org.elasticsearch.Build;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.xcontent.XContentBuilder;

/** GET / and HEAD /: the one handler that clients need and that is in no published jar. */
final class RootHandler extends BaseRestHandler {
    private final String cluster;
    private final String node;
    private final Supplier<String> uuid;

    RootHandler(String cluster, String node, Supplier<String> uuid) {
        this.cluster = cluster;
        this.node = node;
        this.uuid = uuid;
    }

    @Override
    public String getName() {
        return "sluice_root";
    }

    @Override
    public List<Route> routes() {
        return List.of(new Route(RestRequest.Method.GET, "/"), new Route(RestRequest.Method.HEAD, "/"));
    }

    @Override
    protected RestChannelConsumer prepareRequest(RestRequest request, NodeClient client) {
        return channel -> {
            Build build = Build.current();
            XContentBuilder body = channel.newBuilder();
            if (!request.hasParam("pretty")) {
                body.prettyPrint().lfAtEnd();
            }
            body.startObject();
            body.field("name", node);
            body.field("cluster_name", cluster);
            body.field("cluster_uuid", uuid.get());
            body.startObject("version");
            body.field("number", build.qualifiedVersion());
            body.field("build_flavor", "default");
            body.field("build_type", build.type().displayName());
            body.field("build_hash", build.hash());
            body.field("build_date", build.date());
            body.field("build_snapshot", build.isSnapshot());
            body.field("lucene_version", org.apache.lucene.util.Version.LATEST.toString());
            body.field("minimum_wire_compatibility_version", build.minWireCompatVersion());
            body.field("minimum_index_compatibility_version", build.minIndexCompatVersion());
            body.endObject();
            body.field("tagline", "You Know, for Search");
            body.endObject();
            channel.sendResponse(new RestResponse(RestStatus.OK, body));
        };
    }
}
