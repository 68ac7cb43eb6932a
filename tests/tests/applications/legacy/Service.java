import com.sun.net.httpserver.HttpServer;
import java.io.FileOutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.Statement;
import java.util.jar.Attributes;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.jar.Manifest;

/** Answers over HTTP with what the database says. With the argument --jar it packs itself. */
public class Service {
    public static void main(String[] args) throws Exception {
        if (args.length == 3 && args[0].equals("--jar")) {
            pack(Path.of(args[1]), args[2]);
            return;
        }
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 16);
        // By the variables that a link sets, and by the name that it gives.
        serve(server, "/", System.getenv("DEFAULT_PORT_3306_TCP_ADDR"));
        serve(server, "/alias", "default");
        server.start();
        System.out.println("serving");
    }

    private static void serve(HttpServer server, String path, String address) {
        server.createContext(path, exchange -> {
            String text;
            int status = 200;
            try {
                text = query(address);
            } catch (Exception e) {
                text = e.toString();
                status = 503;
            }
            byte[] body = (InetAddress.getLocalHost().getHostName() + " " + text + "\n").getBytes();
            exchange.sendResponseHeaders(status, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
    }

    private static String query(String address) throws Exception {
        String port = System.getenv().getOrDefault("DEFAULT_PORT_3306_TCP_PORT", "3306");
        String password = System.getenv().getOrDefault("DEFAULT_ENV_MYSQL_ROOT_PASSWORD", "123456");
        String url = "jdbc:mariadb://" + address + ":" + port + "/shop";
        try (Connection connection = DriverManager.getConnection(url, "root", password);
                Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery("SELECT name FROM item")) {
            rows.next();
            return rows.getString(1);
        }
    }

    private static void pack(Path classes, String to) throws Exception {
        Manifest manifest = new Manifest();
        Attributes main = manifest.getMainAttributes();
        main.put(Attributes.Name.MANIFEST_VERSION, "1.0");
        main.put(Attributes.Name.MAIN_CLASS, "Service");
        main.put(Attributes.Name.CLASS_PATH, "file:///usr/share/java/mariadb-java-client.jar");
        try (JarOutputStream jar = new JarOutputStream(new FileOutputStream(to), manifest)) {
            for (Path file : Files.list(classes).toList()) {
                jar.putNextEntry(new JarEntry(file.getFileName().toString()));
                jar.write(Files.readAllBytes(file));
                jar.closeEntry();
            }
        }
    }
}
