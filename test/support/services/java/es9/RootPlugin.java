package sluice.root;

import java.util.Collection;
import java.util.List;
import java.util.function.Predicate;
import java.util.function.Supplier;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.rest.RestHandler;

/** Registers {@link RootHandler} with Elasticsearch 9. */
public class RootPlugin extends Plugin implements ActionPlugin {
    private String cluster = "";
    private String node = "";
    private Supplier<String> uuid = () -> "_na_";

    @Override
    public Collection<?> createComponents(PluginServices services) {
        cluster = services.clusterService().getClusterName().value();
        node = services.clusterService().getNodeName();
        uuid = () -> services.clusterService().state().metadata().clusterUUID();
        return List.of();
    }

    @Override
    public Collection<RestHandler> getRestHandlers(
            RestHandlersServices services,
            Supplier<DiscoveryNodes> nodes,
            Predicate<NodeFeature> features) {
        return List.of(new RootHandler(cluster, node, uuid));
    }
}
