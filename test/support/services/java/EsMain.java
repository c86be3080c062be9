import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Starts one node of Elasticsearch 8.19 or 9 in this process, as far as its own launcher would without security. Says
 * NODE-STARTED when it serves. A few names differ between the versions: those are looked up by reflection.
 */
public class EsMain {
    private static final String LOGGING = "org.elasticsearch.common.logging.LogConfigurator";

    public static void main(String[] args) throws Exception {
        call("configureESLogging", new Class<?>[0]);
        Path home = Paths.get(System.getProperty("es.path.home"));
        Path config = Paths.get(System.getProperty("es.path.conf"));
        Settings settings = Settings.builder()
                .put("path.home", home.toString())
                .loadFromPath(config.resolve("elasticsearch.yml"))
                .build();
        Environment environment = new Environment(settings, config);
        call("setNodeName", new Class<?>[] {String.class}, settings.get("node.name"));
        call("configureWithoutConfig", new Class<?>[] {Settings.class}, settings);
        PluginsLoader loader = PluginsLoader.createPluginsLoader(
                bundles("loadModulesBundles", path(environment, "modulesDir", "modulesFile")),
                bundles("loadPluginsBundles", path(environment, "pluginsDir", "pluginsFile")),
                Map.of());
        Node node = new Node(environment, loader);
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

    private static Path path(Environment environment, String... names) throws Exception {
        for (String name : names) {
            try {
                return (Path) Environment.class.getMethod(name).invoke(environment);
            } catch (NoSuchMethodException absent) {
                continue;
            }
        }
        throw new IllegalStateException("Environment has none of " + Arrays.toString(names));
    }

    @SuppressWarnings("unchecked")
    private static <T> Set<T> bundles(String method, Path folder) throws Exception {
        try {
            return (Set<T>) PluginsLoader.class.getMethod(method, Path.class).invoke(null, folder);
        } catch (NoSuchMethodException absent) {
            return (Set<T>) PluginsLoader.class
                    .getMethod(method, Path.class, boolean.class)
                    .invoke(null, folder, true);
        }
    }

    private static void call(String method, Class<?>[] types, Object... args) {
        try {
            Class.forName(LOGGING).getMethod(method, types).invoke(null, args);
        } catch (ReflectiveOperationException error) {
            System.err.println(method + " of the logging: " + error + " " + error.getCause());
        }
    }
}
