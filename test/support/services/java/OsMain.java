import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.opensearch.Version;
import org.opensearch.common.logging.LogConfigurator;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;

/**
 * Starts one node of OpenSearch 2.19 or 3 with all the modules of its distribution in this process, without security.
 * Says NODE-STARTED when it serves. Version 3 takes descriptions of plugins, version 2 their classes.
 */
public class OsMain {
    @SuppressWarnings({"unchecked", "rawtypes"})
    private static class OwnNode extends Node {
        OwnNode(Environment environment, Collection plugins) {
            super(environment, plugins, false);
        }
    }

    /** Some are called SomethingModulePlugin from version 3 on: "#" stands for the difference. */
    private static final String[] MODULES = {
        "org.opensearch.transport.Netty4#Plugin",
        "org.opensearch.index.reindex.Reindex#Plugin",
        "org.opensearch.join.ParentJoin#Plugin",
        "org.opensearch.index.mapper.MapperExtras#Plugin",
        "org.opensearch.script.mustache.Mustache#Plugin",
        "org.opensearch.search.aggregations.matrix.MatrixAggregation#Plugin",
        "org.opensearch.analysis.common.CommonAnalysis#Plugin",
        "org.opensearch.ingest.common.IngestCommon#Plugin",
        "org.opensearch.script.expression.Expression#Plugin",
        "org.opensearch.painless.Painless#Plugin",
        "org.opensearch.percolator.Percolator#Plugin",
        "org.opensearch.index.rankeval.RankEval#Plugin",
        "org.opensearch.geo.Geo#Plugin",
    };

    public static void main(String[] args) throws Exception {
        Path home = Paths.get(System.getProperty("opensearch.path.home"));
        Path config = Paths.get(System.getProperty("opensearch.path.conf"));
        LogConfigurator.registerErrorListener();
        Settings settings = Settings.builder()
                .put("path.home", home.toString())
                .loadFromPath(config.resolve("opensearch.yml"))
                .build();
        LogConfigurator.configureWithoutConfig(settings);
        Node node = new OwnNode(new Environment(settings, config), modules());
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
                node.awaitClose(15, TimeUnit.SECONDS);
            } catch (Throwable error) {
                error.printStackTrace();
            }
            closed.countDown();
        }));
        node.start();
        System.out.println("NODE-STARTED");
        closed.await();
    }

    private static List<Object> modules() {
        boolean described = takesDescriptions();
        List<Object> modules = new ArrayList<>();
        for (String name : MODULES) {
            for (String variant : new String[] {"Module", ""}) {
                try {
                    Class<?> type = Class.forName(name.replace("#", variant));
                    modules.add(described ? describe(type) : type);
                    break;
                } catch (ClassNotFoundException absent) {
                    continue;
                }
            }
        }
        return modules;
    }

    private static boolean takesDescriptions() {
        for (var constructor : Node.class.getDeclaredConstructors()) {
            for (var type : constructor.getGenericParameterTypes()) {
                if (type.getTypeName().contains("PluginInfo")) {
                    return true;
                }
            }
        }
        return false;
    }

    private static PluginInfo describe(Class<?> type) {
        String java = String.valueOf(Runtime.version().feature());
        return new PluginInfo(
                type.getName(), type.getSimpleName(), "NA", Version.CURRENT, java, type.getName(), null, List.of(), false);
    }
}
