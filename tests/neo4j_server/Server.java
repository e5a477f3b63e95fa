import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.neo4j.dbms.api.DatabaseManagementService;
import org.neo4j.dbms.api.DatabaseManagementServiceBuilder;
import org.neo4j.kernel.internal.Version;

/** A Neo4j server (Community Edition) with Bolt on loopback, which ends with its standard input. */
public final class Server {
    /** The beginnings of the names of settings in Neo4j 4.4, by those of later versions. */
    private static final Map<String, String> OLD_NAMES = Map.of(
            "server.bolt.", "dbms.connector.bolt.",
            "server.memory.", "dbms.memory.",
            "db.tx_log.", "dbms.tx_log.");

    /** Arguments: folder of the data, port, and settings as `name=value`. */
    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[0]);
        List<String> settings = new ArrayList<>(List.of(
                "server.bolt.enabled=true",
                "server.bolt.listen_address=127.0.0.1:" + arguments[1],
                "server.bolt.advertised_address=127.0.0.1:" + arguments[1],
                "server.memory.pagecache.size=16M",
                "db.tx_log.preallocate=false",
                "dbms.usage_report.enabled=false"));
        settings.addAll(List.of(arguments).subList(2, arguments.length));
        if (Version.getNeo4jVersion().startsWith("4.")) {
            settings.replaceAll(Server::useOldName);
        }
        Files.createDirectories(folder);
        Path file = Files.write(folder.resolve("server.conf"), settings);
        DatabaseManagementService service =
                new DatabaseManagementServiceBuilder(folder).loadPropertiesFromFile(file).build();
        System.out.println("started");
        while (System.in.read() != -1) {
            // Whoever started the server keeps its standard input open.
        }
        service.shutdown();
    }

    private static String useOldName(String setting) {
        for (Map.Entry<String, String> name : OLD_NAMES.entrySet()) {
            if (setting.startsWith(name.getKey())) {
                return name.getValue() + setting.substring(name.getKey().length());
            }
        }
        return setting;
    }
}
