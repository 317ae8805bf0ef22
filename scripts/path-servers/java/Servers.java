// A guarded and an open place, by servlets in Tomcat and in Jetty, each as it comes and as lenient as it can be set:
// java Servers.java TOMCAT_PORT TOMCAT_LENIENT_PORT JETTY_PORT JETTY_LENIENT_PORT

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.connector.Connector;
import org.apache.catalina.startup.Tomcat;
import org.eclipse.jetty.ee11.servlet.ServletContextHandler;
import org.eclipse.jetty.ee11.servlet.ServletHolder;
import org.eclipse.jetty.http.UriCompliance;
import org.eclipse.jetty.server.HttpConfiguration;
import org.eclipse.jetty.server.HttpConnectionFactory;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;

public class Servers {
    static class Named extends HttpServlet {
        private final String name;

        Named(String name) {
            this.name = name;
        }

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            if (name == null) {
                response.sendError(404);
            } else {
                response.getWriter().println("served: " + name);
            }
        }
    }

    static void tomcat(int port, boolean lenient) throws Exception {
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(Files.createTempDirectory("path-servers").toString());
        Connector connector = new Connector();
        connector.setPort(port);
        connector.setProperty("address", "127.0.0.1");
        if (lenient) {
            connector.setEncodedSolidusHandling("decode");
            connector.setProperty("encodedReverseSolidusHandling", "decode");
            connector.setAllowBackslash(true);
            connector.setProperty("relaxedPathChars", "\"<>[\\]^`{|}");
            connector.setProperty("rejectSuspiciousURIs", "false");
        }
        tomcat.getService().addConnector(connector);
        tomcat.setConnector(connector);
        Context context = tomcat.addContext("", null);
        for (String name : new String[] {"admin", "public"}) {
            Tomcat.addServlet(context, name, new Named(name));
            context.addServletMappingDecoded("/" + name + "/*", name);
        }
        Tomcat.addServlet(context, "other", new Named(null));
        context.addServletMappingDecoded("/", "other");
        tomcat.start();
    }

    static void jetty(int port, boolean lenient) throws Exception {
        Server server = new Server();
        HttpConfiguration settings = new HttpConfiguration();
        if (lenient) {
            settings.setUriCompliance(UriCompliance.UNSAFE);
        }
        ServerConnector connector = new ServerConnector(server, new HttpConnectionFactory(settings));
        connector.setHost("127.0.0.1");
        connector.setPort(port);
        server.addConnector(connector);
        ServletContextHandler context = new ServletContextHandler("/");
        if (lenient) {
            context.getServletHandler().setDecodeAmbiguousURIs(true);
        }
        for (String name : new String[] {"admin", "public"}) {
            context.addServlet(new ServletHolder(name, new Named(name)), "/" + name + "/*");
        }
        context.addServlet(new ServletHolder("other", new Named(null)), "/");
        server.setHandler(context);
        server.start();
    }

    public static void main(String[] ports) throws Exception {
        tomcat(Integer.parseInt(ports[0]), false);
        tomcat(Integer.parseInt(ports[1]), true);
        jetty(Integer.parseInt(ports[2]), false);
        jetty(Integer.parseInt(ports[3]), true);
        Thread.currentThread().join();
    }
}
